// SweepMonitor: what a job folder says, drawn again whenever it changes.

const COLOURS = ["#1e88e5", "#e65100", "#43a047", "#8e24aa", "#00897b", "#c2185b"];

function render({ model, el: root }) {
  const ui = frame(root, "sweep", "Progress of a sweep");
  const heard = listen(model);
  let asked = false;

  function cancel() {
    if (asked) { asked = false; model.send({ kind: "cancel" }); return; }
    asked = true;
    draw();
    setTimeout(() => { if (asked) { asked = false; draw(); } }, 4000);
  }

  function chart(lines) {
    const [w, h, l, b] = [860, 320, 46, 40];
    const ks = [...new Set(lines.flatMap((line) => line.points.map(([k]) => k)))].sort((x, y) => x - y);
    const all = lines.flatMap((line) => line.points.map(([, a]) => a));
    const low = Math.max(0, Math.min(...all) - 0.05), high = Math.min(1, Math.max(...all) + 0.05);
    const log = (k) => Math.log2(k + 1); // k = 0 has a place too
    const x = (k) => l + 10 + (log(k) / Math.max(1, log(ks[ks.length - 1]))) * (w - l - 30);
    const y = (a) => h - b - ((a - low) / (high - low || 1)) * (h - b - 14);
    const ticks = [0, 1, 2, 3, 4].map((i) => low + (i / 4) * (high - low));
    const text = (props, words) => el("svg:text", props, words);
    return el("svg:svg", { viewBox: `0 0 ${w} ${h}`, width: w, height: h, role: "img",
      "aria-label": `accuracy against k: ${lines.map((line) => `${line.name}: ${line.points.map(([k, a]) => `${k}: ${number(a)}`).join(", ")}`).join("; ")}` },
    ticks.map((t) => [el("svg:line", { x1: l, x2: w - 10, y1: y(t), y2: y(t), stroke: "var(--ll-line)" }), text({ x: l - 6, y: y(t) + 4, "text-anchor": "end" }, t.toFixed(2))]),
    ks.map((k) => text({ x: x(k), y: h - b + 18, "text-anchor": "middle" }, k)),
    text({ x: (w + l) / 2, y: h - 5, "text-anchor": "middle" }, "demonstrations k (log axis)"),
    lines.map((line, i) => {
      const colour = COLOURS[i % COLOURS.length];
      return [el("svg:polyline", { fill: "none", stroke: colour, "stroke-width": 2, points: line.points.map(([k, a]) => `${x(k)},${y(a)}`).join(" ") }),
        line.points.map(([k, a, n]) => el("svg:circle", { cx: x(k), cy: y(a), r: 4, fill: colour }, el("svg:title", {}, `${line.name}, k = ${k}: ${number(a)} (${n} seeds)`)))];
    }));
  }

  function draw() {
    ui.warn(model.get("message"));
    const s = model.get("status"), lines = model.get("curve"), errors = model.get("errors");
    const known = s.state !== undefined;
    const share = known ? (100 * s.done) / Math.max(1, s.total) : 0;
    const keep = root.contains(document.activeElement);
    replace(ui.body,
      el("div", { class: "ll-bar" }, el("b", { dir: "auto" }, `Job ${model.get("job")}`), known ? el("span", { class: "ll-state" }, s.state) : null,
        el("span", { class: "ll-space" }), known && s.active ? button(asked ? "Really cancel?" : "Cancel", cancel, { class: "ll-button ll-cancel" }) : null),
      known ? el("div", { class: "ll-bar" },
        el("div", { class: "ll-track", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": s.total, "aria-valuenow": s.done, "aria-label": "finished cells" },
          el("div", { class: "ll-fill", style: { width: `${share}%` } })),
        el("span", { class: "ll-number ll-count" }, `${s.done} of ${s.total}`), el("span", { class: "ll-quiet ll-number" }, s.left)) : null,
      known && s.doing ? words(s.doing, { class: "ll-quiet" }) : null,
      errors.length ? el("details", { open: true }, el("summary", {}, `${errors.length} ${errors.length === 1 ? "line" : "lines"} about errors or warnings`), el("ul", { class: "ll-errors" }, errors.map((line) => el("li", { dir: "auto" }, line)))) : null,
      lines.length ? [chart(lines), el("div", { class: "ll-bar" }, lines.map((line, i) => el("span", { class: "ll-field" },
        el("span", { style: { width: "12px", height: "12px", "border-radius": "6px", background: COLOURS[i % COLOURS.length] } }), line.name)))]
        : known ? el("div", { class: "ll-quiet" }, "No cell is finished yet.") : null);
    if (keep) root.querySelector(".ll-cancel")?.focus();
  }

  let due = 0;
  const soon = () => { cancelAnimationFrame(due); due = requestAnimationFrame(draw); };
  for (const name of ["status", "curve", "errors", "message"]) heard.on(`change:${name}`, soon);
  heard.on("change:status", () => ui.say(`${model.get("status").state ?? ""} ${model.get("status").done ?? ""}`));
  draw();
  return () => heard.stop();
}

export default { render };
