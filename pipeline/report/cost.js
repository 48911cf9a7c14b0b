// What N candidates would cost at this run's rate. `costs`: of each source candidates, seconds, packed, bytes, as measured.
function costProjection(costs) {
  const source = document.getElementById("cost-source");
  if (!source) return;
  const [count, workers, answer] = ["cost-count", "cost-workers", "cost-answer"].map((id) => document.getElementById(id));
  source.append(make("option", { value: "" }, "all sources, mixed as in this run"));
  for (const cost of costs) source.append(make("option", { value: cost.source }, cost.source));
  const number = (value, unit) => `${value.toLocaleString("en", { maximumSignificantDigits: 4 })} ${unit}`;
  const bytes = (value) => {
    const power = Math.min(5, Math.max(0, Math.floor(Math.log10(Math.max(1, value)) / 3)));
    return number(value / 1000 ** power, ["B", "kB", "MB", "GB", "TB", "PB"][power]);
  };
  const update = () => {
    const chosen = costs.filter((cost) => !source.value || cost.source === source.value);
    const total = (name) => chosen.reduce((sum, cost) => sum + cost[name], 0);
    const [n, w] = [Number(count.value), Number(workers.value)];
    answer.replaceChildren();
    if (!(n > 0 && w > 0)) return answer.append(make("dt", {}, "Give numbers above 0."));
    const factor = n / total("candidates");
    const hours = (total("seconds") * factor) / 3600;
    const told = [
      ["worker-hours", number(hours, "h"), hours],
      ["hours on these workers", number(hours / w, "h"), hours / w],
      ["samples in shards", number(Math.round(total("packed") * factor), ""), total("packed") * factor],
      ["bytes in shards", bytes(total("bytes") * factor), total("bytes") * factor],
    ];
    for (const [name, text, value] of told) answer.append(make("div", {}, make("dd", { "data-value": value }, text.trim()), make("dt", {}, name)));
  };
  for (const input of [source, count, workers]) input.addEventListener("input", update);
  update();
}
