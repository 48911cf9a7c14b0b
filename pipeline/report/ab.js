// Votes on pairs of pictures without names, kept in this browser, and what they say. The data is made by ab.py.
const data = embedded("data");
const pictures = embedded("pictures");
const element = (id) => document.getElementById(id);
const KEY = `parallax-compare-${data.id}`;
const pairs = data.pairs;
const state = { votes: pairs.map(() => null), revealed: false, at: 0 };

try {
  const kept = JSON.parse(localStorage.getItem(KEY));
  if (kept && kept.votes.length === pairs.length) Object.assign(state, { votes: kept.votes, revealed: kept.revealed });
} catch { /* a browser that keeps nothing: votes live as long as the page */ }
function save() {
  try {
    localStorage.setItem(KEY, JSON.stringify({ votes: state.votes, revealed: state.revealed }));
  } catch { /* as above */ }
}

// Exact binomial probabilities: sums over logarithms of factorials.
function binomial(n) {
  const logs = [0];
  for (let i = 1; i <= n; i++) logs.push(logs[i - 1] + Math.log(i));
  const one = (k, p) => (p <= 0 ? Number(k === 0) : p >= 1 ? Number(k === n) : Math.exp(logs[n] - logs[k] - logs[n - k] + k * Math.log(p) + (n - k) * Math.log1p(-p)));
  return (low, high, p) => {
    let sum = 0;
    for (let k = low; k <= high; k++) sum += one(k, p);
    return Math.min(1, sum);
  };
}

// Of `wins` among n decided: the two-sided sign test, and the interval of Clopper and Pearson that holds the true share with 95 %.
function signTest(wins, n) {
  const sum = binomial(n);
  const solve = (rises) => {
    let [low, high] = [0, 1];
    for (let i = 0; i < 60; i++) {
      const middle = (low + high) / 2;
      if (rises(middle)) high = middle;
      else low = middle;
    }
    return (low + high) / 2;
  };
  return {
    p: n ? Math.min(1, 2 * sum(0, Math.min(wins, n - wins), 0.5)) : 1,
    low: wins === 0 ? 0 : solve((p) => sum(wins, n, p) > 0.025),
    high: wins === n ? 1 : solve((p) => sum(0, wins, p) < 0.025),
  };
}

const right = (pair) => (pair.left === "a" ? "b" : "a");
const chosen = (pair, vote) => (vote === 1 ? pair.left : vote === 2 ? right(pair) : null); // "a", "b" or neither
function tally() {
  const of = (set) => pairs.filter((pair, i) => state.votes[i] !== null && chosen(pair, state.votes[i]) === set).length;
  const [a, b] = [of("a"), of("b")];
  const decided = a + b;
  const test = signTest(a, decided);
  return { a, b, ties: of(null), open: state.votes.filter((vote) => vote === null).length, decided, share_a: decided ? a / decided : null, interval: [test.low, test.high], p: test.p };
}

function show() {
  element("vote").hidden = state.revealed;
  element("answer").hidden = !state.revealed;
  if (state.revealed) return reveal();
  const pair = pairs[state.at];
  const images = document.querySelectorAll(".pair img");
  [0, 1].forEach((side) => (images[side].src = pictures[pair.pictures + side]));
  for (const button of document.querySelectorAll("[data-vote]")) button.setAttribute("aria-pressed", String(state.votes[state.at] === Number(button.dataset.vote)));
  const judged = state.votes.filter((vote) => vote !== null).length;
  element("at").textContent = `pair ${state.at + 1} of ${pairs.length}, ${judged} judged`;
  element("progress").max = pairs.length;
  element("progress").value = judged;
  element("back").disabled = state.at === 0;
  element("forward").disabled = state.at + 1 === pairs.length;
  element("reveal").disabled = judged === 0;
  element("reveal").textContent = judged === pairs.length ? "Reveal" : "Stop and reveal";
}

function vote(which) {
  if (state.revealed) return;
  state.votes[state.at] = which;
  if (state.at + 1 < pairs.length) state.at += 1;
  save();
  show();
  if (state.votes.every((each) => each !== null)) element("reveal").focus();
}
function step(by) {
  state.at = Math.max(0, Math.min(pairs.length - 1, state.at + by));
  show();
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
function reveal() {
  const found = tally();
  const { a, b } = data.names;
  const ahead = found.a >= found.b ? { name: a, share: found.share_a, low: found.interval[0], high: found.interval[1] } : { name: b, share: 1 - found.share_a, low: 1 - found.interval[1], high: 1 - found.interval[0] };
  const clear = found.decided > 0 && found.p < 0.05;
  element("winner").textContent = !found.decided ? "No pair was decided" : found.a === found.b ? "Neither was chosen more often" : clear ? `${ahead.name} was chosen more often` : `${ahead.name} was chosen more often, but not clearly`;
  element("interval").textContent = found.decided
    ? `${ahead.name}: ${percent(ahead.share)} of ${found.decided} decided pairs, 95 % interval ${percent(ahead.low)} to ${percent(ahead.high)}; sign test p = ${found.p.toPrecision(2)}.`
    : "Every vote was for no difference.";
  const cards = [[found.a, `A: ${a}`], [found.b, `B: ${b}`], [found.ties, "no difference"], [found.open, "not judged"]];
  element("counts").replaceChildren(...cards.map(([count, text]) => make("div", { class: "card" }, make("b", {}, String(count)), make("span", {}, text))));
  const words = (pair, i) => ({ 0: "no difference", 1: "left", 2: "right" })[state.votes[i]] || "–";
  const named = (pair, set) => make("td", { class: "wide" }, make("b", {}, set.toUpperCase()), " ", make("code", {}, pair[set]));
  element("pairs").replaceChildren(...pairs.map((pair, i) => make("tr", {}, make("td", {}, String(i + 1)), make("td", { class: "name" }, pair.source), named(pair, pair.left), named(pair, right(pair)), make("td", { class: "name" }, words(pair, i)))));
}

const record = (pair, i) => ({ pair: i + 1, source: pair.source, left_set: pair.left, right_set: right(pair), left_id: pair[pair.left], right_id: pair[right(pair)], vote: state.votes[i], chosen: state.votes[i] === null ? null : chosen(pair, state.votes[i]) || "tie" });
function download(name, type, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
const quoted = (value) => (value === null ? "" : /[",\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
element("json").addEventListener("click", () => {
  const document = { comparison: data.id, seed: data.seed, sets: data.names, tally: tally(), votes: pairs.map(record) };
  download(`compare-${data.id}.json`, "application/json", `${JSON.stringify(document, null, 1)}\n`);
});
element("csv").addEventListener("click", () => {
  const rows = pairs.map(record);
  const lines = [Object.keys(rows[0]), ...rows.map((row) => Object.values(row).map(quoted))];
  download(`compare-${data.id}.csv`, "text/csv", lines.map((line) => `${line.join(",")}\n`).join(""));
});

for (const button of document.querySelectorAll("[data-vote]")) button.addEventListener("click", () => vote(Number(button.dataset.vote)));
element("back").addEventListener("click", () => step(-1));
element("forward").addEventListener("click", () => step(1));
element("reveal").addEventListener("click", () => {
  state.revealed = true;
  save();
  show();
  element("winner").focus();
});
element("again").addEventListener("click", () => {
  Object.assign(state, { votes: pairs.map(() => null), revealed: false, at: 0 });
  save();
  show();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || state.revealed) return;
  if (["0", "1", "2"].includes(event.key)) vote(Number(event.key));
  else if (event.key === "ArrowLeft" || event.key === "Backspace") step(-1);
  else if (event.key === "ArrowRight") step(1);
});
element("told").textContent = `${data.told}.`;
state.at = Math.max(0, state.votes.indexOf(null));
show();
