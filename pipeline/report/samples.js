// The table of samples: filter, sort, page, and open one. `data` is made by explorer.py.
function sampleTable(data, pictures, scenes) {
  const PER_PAGE = 50;
  const field = (name) => document.getElementById(`samples-${name}`);
  const dialog = document.getElementById("sample");
  const state = { page: 0, rows: data.rows };
  const short = (value) => (value === null || value === undefined ? "–" : String(Number(value.toPrecision(4))));
  const sourceOf = (row) => data.sources[row.s];
  const scoreOf = (row, name) => {
    const at = sourceOf(row).scores.indexOf(name);
    return at < 0 ? null : row.n[at];
  };
  const fill = (select, options) => select.append(...options.map(([value, text]) => make("option", { value }, text)));
  const count = (of) => data.rows.reduce((sum, row) => sum + (of(row) ? 1 : 0), 0);

  const some = data.rows.length < data.total;
  field("told").textContent = some
    ? `${data.rows.length.toLocaleString("en")} of ${data.total.toLocaleString("en")} samples, evenly of each source's verdicts; audit sql has the others. Choose one for all that is known of it.`
    : `All ${data.total.toLocaleString("en")} samples judged. Choose one for all that is known of it.`;
  fill(field("source"), [["", "all"], ...data.sources.map((source, i) => [i, source.name])]);
  fill(field("status"), [["", "all"], ...data.statuses.map((name, i) => [i, `${name} (${count((row) => row.v === i)})`])]);
  fill(field("reason"), [["", "any"], ...data.reasons.map(([name], i) => [i, `${name} (${count((row) => row.r.includes(i))})`])]);
  fill(field("score"), [["", "none"], ...Object.keys(data.scores).map((name) => [name, name])]);

  function choose() {
    const value = (name) => field(name).value;
    const bound = (name) => (value(name) === "" ? null : Number(value(name)));
    const [low, high, score, text] = [bound("low"), bound("high"), value("score"), value("id").trim().toLowerCase()];
    for (const name of ["low", "high", "sort"]) field(name).disabled = !score;
    const kept = data.rows.filter((row) => {
      if (value("source") !== "" && row.s !== Number(value("source"))) return false;
      if (value("status") !== "" && row.v !== Number(value("status"))) return false;
      if (value("reason") !== "" && !row.r.includes(Number(value("reason")))) return false;
      if (text && !row.id.toLowerCase().includes(text)) return false;
      if (!score || (low === null && high === null)) return true;
      const number = scoreOf(row, score);
      return number !== null && (low === null || number >= low) && (high === null || number <= high);
    });
    const sort = score ? value("sort") : "";
    if (sort) {
      const sign = sort === "up" ? 1 : -1;
      const rank = (row) => (scoreOf(row, score) === null ? Infinity : sign * scoreOf(row, score)); // not computed comes last
      kept.sort((a, b) => (rank(a) === rank(b) ? (a.id < b.id ? -1 : 1) : rank(a) < rank(b) ? -1 : 1));
    }
    state.rows = kept;
    state.page = 0;
    list();
  }

  function picture(row, kind) {
    if (row.p === undefined) return kind === "tile" ? make("div", { class: "gone" }, "no picture in this report") : "";
    return make("img", { src: pictures[row.p], alt: "", loading: "lazy", class: kind });
  }
  const verdict = (row) => make("span", { class: `text-${data.statuses[row.v]}` }, data.statuses[row.v]);
  const opener = (row, ...inside) => {
    const button = make("button", { type: "button", class: "open-sample", "data-id": row.id, title: row.id }, ...inside);
    button.addEventListener("click", () => open(row));
    return button;
  };

  function asTable(rows, score) {
    const head = ["", "Sample", "Source", "Verdict", "Reasons", ...(score ? [score] : [])];
    const sorted = { up: "ascending", down: "descending" }[field("sort").value] || "none";
    const heads = head.map((text, i) => {
      if (i < 5) return make("th", {}, text);
      const button = make("button", { type: "button", class: "sort" }, `${text} ${{ ascending: "▲", descending: "▼", none: "⇅" }[sorted]}`);
      button.addEventListener("click", () => {
        field("sort").value = field("sort").value === "up" ? "down" : "up";
        choose();
      });
      return make("th", { class: "number", "aria-sort": sorted }, button);
    });
    const lines = rows.map((row) => {
      const reasons = row.r.map((i) => data.reasons[i][0]).join(", ");
      const cells = [
        make("td", { class: "thumb" }, picture(row, "thumb")),
        make("td", { class: "id" }, opener(row, make("code", {}, row.id))),
        make("td", { class: "name" }, sourceOf(row).name),
        make("td", { class: "name" }, verdict(row)),
        make("td", { class: "why-cell" }, reasons ? make("code", {}, reasons) : ""),
      ];
      if (score) cells.push(make("td", { class: "number" }, short(scoreOf(row, score))));
      return make("tr", {}, ...cells);
    });
    const table = make("table", { class: "samples" }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...lines));
    return make("div", { class: "scroll" }, table);
  }

  function asGallery(rows, score) {
    const tiles = rows.map((row) => {
      const words = [verdict(row), ...(score ? [` ${score} ${short(scoreOf(row, score))}`] : [])];
      return make("figure", { class: "tile" }, opener(row, picture(row, "tile")), make("figcaption", {}, make("code", {}, make("span", {}, row.id)), make("span", { class: "value" }, ...words)));
    });
    return make("div", { class: "sample-tiles" }, ...tiles);
  }

  function list() {
    const pages = Math.max(1, Math.ceil(state.rows.length / PER_PAGE));
    state.page = Math.max(0, Math.min(pages - 1, state.page));
    const rows = state.rows.slice(state.page * PER_PAGE, (state.page + 1) * PER_PAGE);
    const score = field("score").value;
    field("list").replaceChildren(field("as").value === "gallery" ? asGallery(rows, score) : asTable(rows, score));
    field("count").textContent = `${state.rows.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} match.`;
    field("page").textContent = `page ${state.page + 1} of ${pages}`;
    field("before").disabled = state.page === 0;
    field("after").disabled = state.page + 1 >= pages;
  }
  for (const [name, step] of [["before", -1], ["after", 1]]) {
    field(name).addEventListener("click", () => {
      state.page += step;
      list();
    });
  }

  // A score beside each of its limits, those that fail first.
  function scoreTable(row) {
    const { scores, limits } = sourceOf(row);
    const lines = [];
    scores.forEach((name, i) => {
      const value = row.n[i];
      const own = limits.filter((limit) => limit[0] === name);
      if (value === null && !own.length) return;
      for (const [, op, bound, reason] of own.length ? own : [["", "", null, ""]]) {
        const fails = value !== null && bound !== null && (op === ">=" ? value < bound : value > bound);
        const judged = bound === null ? "" : value === null ? "not computed" : fails ? reason : "passes";
        const allowed = bound === null ? "" : `${op === ">=" ? "≥" : "≤"} ${short(bound)}`;
        const cells = [name, short(value), data.scores[name][0], allowed].map((text, at) => make("td", { class: at % 2 ? "number" : "name" }, text));
        cells[0].title = data.scores[name][1];
        lines.push({ fails, order: bound === null ? 2 : fails ? 0 : 1, line: make("tr", {}, ...cells, make("td", { class: fails ? "name text-rejected" : "name" }, judged)) });
      }
    });
    lines.sort((a, b) => a.order - b.order);
    const head = make("tr", {}, ...["Score", "value", "unit", "limit", ""].map((text, i) => make("th", i === 1 || i === 3 ? { class: "number" } : {}, text)));
    return make("div", { class: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines.map((each) => each.line))));
  }

  // The output folder, where this file still lies in it.
  function folder() {
    const path = decodeURIComponent(location.pathname);
    return location.protocol === "file:" && path.endsWith("/report/index.html") ? path.slice(0, -"/report/index.html".length) : "DIR";
  }
  const quoted = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

  let shown = null;
  function open(row) {
    const close = make("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
    close.addEventListener("click", () => dialog.close());
    const facts = [["source", sourceOf(row).name], ["kind", row.k], ["frames", row.f]].filter(([, text]) => text);
    const parts = [
      make("div", { class: "dialog-head" }, make("h3", { id: "sample-title" }, row.id), close),
      make("p", { class: "verdict" }, make("b", {}, verdict(row)), facts.map(([name, text]) => ` · ${name}: ${text}`).join("")),
    ];
    if (row.p !== undefined) parts.push(make("img", { src: pictures[row.p], alt: `Frames of ${row.id}` }));
    if (row.r.length) parts.push(make("ul", { class: "why" }, ...row.r.map((i) => make("li", {}, make("code", {}, data.reasons[i][0]), ` ${data.reasons[i][1]}`))));
    if (row.m) parts.push(make("p", { class: "note" }, row.m));
    if (row.o) parts.push(make("p", { class: "note" }, `Not examined from stage ${row.o} on: an earlier cost tier had failed.`));
    parts.push(scoreTable(row));
    const room = row.c === undefined ? null : make("div", { class: "camera-view" });
    if (room) parts.push(make("h4", {}, "Cameras"), room);
    parts.push(make("p", { class: "note" }, "Everything known of it:"), make("pre", {}, make("code", {}, `python -m pipeline.audit show ${quoted(folder())} ${row.id}`)));
    dialog.replaceChildren(...parts);
    dialog.showModal();
    dialog.scrollTop = 0;
    if (room) shown = cameraView(room, scenes[row.c]);
  }
  dialog.addEventListener("close", () => {
    if (shown) shown.stop();
    shown = null;
    dialog.replaceChildren();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });

  field("fields").addEventListener("input", choose);
  field("fields").addEventListener("submit", (event) => event.preventDefault());
  choose();
}
