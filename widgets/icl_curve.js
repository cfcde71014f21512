// ICLCurveExplorer: lines on and off, values on hover or focus, a point opened with a click or Enter.

const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe-Ito
const MARKS = ["circle", "square", "triangle", "diamond"];
const DASHES = { 0: "", 1: "7 4", 2: "2 3", 3: "9 3 2 3" };
const REACH = 16; // how near the mouse must be to a point, in pixels of the screen
const W = 860, H = 400, LEFT = 56, RIGHT = 190, TOP = 14, BOTTOM = 46;

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits).replace("-", "\u2212")} %`;
const signed = (share) => `${share < 0 ? "\u2212" : "+"}${Math.abs(100 * share).toFixed(1)}`;

function render({ model, el: root }) {
  const ui = frame(root, "curve", "Accuracy curves");
  const heard = listen(model);
  const switches = el("div", { class: "ll-switches" });
  const tip = el("div", { class: "ll-tip", hidden: true, role: "status" });
  const canvas = el("div", {});
  const chart = el("div", { class: "ll-chart" }, canvas, tip);
  const compared = el("div", {});
  const inside = el("div", { class: "ll-inside" });
  replace(ui.body, switches, chart, compared, inside);

  const shown = () => model.get("series").map((one, number) => ({ ...one, number })).filter(({ name: [task, method, calibration] }) =>
    model.get("tasks").includes(task) && model.get("methods").includes(method) && model.get("calibrations").includes(calibration));

  function drawSwitches() {
    const { tasks = [], methods = [], calibrations = [] } = model.get("available");
    const group = (trait, names) => el("fieldset", {}, el("legend", {}, trait), names.map((name) =>
      el("label", { class: "ll-check" }, el("input", { type: "checkbox", checked: model.get(trait).includes(name), "data-trait": trait, "data-name": name,
        on: { change: (event) => {
          const on = new Set(model.get(trait));
          if (event.target.checked) on.add(name); else on.delete(name);
          put(model, { [trait]: names.filter((one) => on.has(one)) });
        } } }), el("span", { dir: "auto" }, name))));
    replace(switches, tasks.length > 1 ? group("tasks", tasks) : null, group("methods", methods), group("calibrations", calibrations));
  }

  // A method has a colour; tasks, then calibrations, tell lines of one colour apart by their dashes and marks.
  function look([task, method, calibration]) {
    const { tasks, methods, calibrations } = model.get("available");
    const place = methods.filter((name) => name !== "zero-shot").indexOf(method);
    const many = model.get("tasks").length > 1;
    return {
      colour: place < 0 ? "var(--ll-quiet)" : COLOURS[place % COLOURS.length],
      dash: DASHES[(many ? tasks.indexOf(task) : model.get("calibrations").indexOf(calibration)) % 4] ?? "",
      mark: MARKS[(many && model.get("calibrations").length > 1 ? calibrations.indexOf(calibration) : Math.max(place, 0)) % MARKS.length],
    };
  }

  function lineName([task, method, calibration]) {
    return [model.get("tasks").length > 1 ? task : null, method, model.get("calibrations").length > 1 ? calibration : null].filter(Boolean).join(", ");
  }

  function mark(kind, x, y, r, props) {
    if (kind === "square") return el("svg:rect", { x: x - r, y: y - r, width: 2 * r, height: 2 * r, ...props });
    if (kind === "circle") return el("svg:circle", { cx: x, cy: y, r, ...props });
    const d = kind === "triangle" ? `M${x} ${y - r * 1.2}L${x + r * 1.15} ${y + r}L${x - r * 1.15} ${y + r}Z` : `M${x} ${y - r * 1.3}L${x + r * 1.3} ${y}L${x} ${y + r * 1.3}L${x - r * 1.3} ${y}Z`;
    return el("svg:path", { d, ...props });
  }

  function draw() {
    const focused = root.contains(document.activeElement) ? document.activeElement.getAttribute?.("data-point") : null;
    tip.hidden = true;
    const lines = shown();
    const points = lines.flatMap((one) => one.points);
    if (!points.length) {
      replace(canvas, el("p", { class: "ll-quiet" }, "Nothing is switched on: choose a task, a method and a calibration."));
      return;
    }
    const ks = [...new Set(points.map((p) => p.k))].sort((a, b) => a - b);
    const least = Math.log2(Math.min(...ks.filter((k) => k > 0), Infinity));
    const place = (k) => (k > 0 ? Math.log2(k) : (Number.isFinite(least) ? least - 1.4 : 0));
    const x0 = place(ks[0]), x1 = place(ks[ks.length - 1]);
    const X = (k) => LEFT + 16 + (x1 > x0 ? ((place(k) - x0) / (x1 - x0)) * (W - LEFT - RIGHT - 30) : 0);
    const lows = points.flatMap((p) => [p.low, ...p.seeds.map((s) => s[1])]);
    const highs = points.flatMap((p) => [p.high, ...p.seeds.map((s) => s[1])]);
    const lo = Math.max(0, Math.min(...lows) - 0.03), hi = Math.min(1, Math.max(...highs) + 0.03);
    const Y = (v) => TOP + ((hi - v) / (hi - lo)) * (H - TOP - BOTTOM);
    const step = hi - lo > 0.5 ? 0.1 : hi - lo > 0.2 ? 0.05 : 0.02;
    const parts = [];
    for (let v = Math.ceil(lo / step) * step; v <= hi + 1e-9; v += step) {
      parts.push(el("svg:line", { x1: LEFT, x2: W - RIGHT, y1: Y(v), y2: Y(v), stroke: "var(--ll-line)", "stroke-width": 1 }),
        el("svg:text", { x: LEFT - 8, y: Y(v) + 4, "text-anchor": "end" }, percent(v, 0)));
    }
    let last = -Infinity;
    for (const k of ks) {
      parts.push(el("svg:line", { x1: X(k), x2: X(k), y1: H - BOTTOM, y2: H - BOTTOM + 5, stroke: "var(--ll-quiet)" }));
      if (X(k) - last < 34) continue;
      last = X(k);
      parts.push(el("svg:text", { x: X(k), y: H - BOTTOM + 19, "text-anchor": "middle" }, k.toLocaleString("en")));
    }
    parts.push(el("svg:text", { x: (LEFT + W - RIGHT) / 2, y: H - 6, "text-anchor": "middle" }, "demonstrations in context (log scale, with a place for 0)"));
    const ends = [], marks = [], spots = [];
    for (const one of lines) {
      const { colour, dash, mark: kind } = look(one.name);
      if (one.points.length > 1) {
        const up = one.points.map((p) => `${X(p.k)},${Y(p.high)}`), down = [...one.points].reverse().map((p) => `${X(p.k)},${Y(p.low)}`);
        parts.push(el("svg:polygon", { points: [...up, ...down].join(" "), fill: colour, opacity: 0.13 }));
        parts.push(el("svg:polyline", { points: one.points.map((p) => `${X(p.k)},${Y(p.mean)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2.4, "stroke-dasharray": dash }));
      }
      one.points.forEach((p, index) => {
        const bar = one.points.length === 1 ? el("svg:line", { x1: X(p.k), x2: X(p.k), y1: Y(p.low), y2: Y(p.high), stroke: colour, "stroke-width": 2 }) : null;
        const dots = p.seeds.length > 1 ? p.seeds.map(([, value]) => el("svg:circle", { cx: X(p.k), cy: Y(value), r: 2.2, fill: colour, opacity: 0.55 })) : [];
        const text = `${one.name.join(", ")}\nk = ${p.k.toLocaleString("en")}: ${percent(p.mean)}\n95 % interval ${percent(p.low)} to ${percent(p.high)}\n` +
          `${p.queries} queries, seeds ${p.seeds.map(([seed, value]) => `${seed}: ${percent(value)}`).join(", ")}`;
        const on = model.get("selected");
        const open = () => put(model, { selected: [one.number, p.k] });
        const tell = () => {
          tip.textContent = text;
          tip.hidden = false;
          const box = canvas.getBoundingClientRect(), scale = box.width / W;
          tip.style.left = `${Math.min(X(p.k) * scale + 12, box.width - 270)}px`;
          tip.style.top = `${Y(p.mean) * scale + 12}px`;
        };
        marks.push(el("svg:g", { class: "ll-point", tabindex: 0, role: "button", "aria-label": text, "aria-pressed": String(on[0] === one.number && on[1] === p.k), "data-point": `${one.number}:${p.k}`,
          on: { focus: tell, blur: () => { tip.hidden = true; },
            keydown: (event) => {
              if (event.key === "Enter" || event.key === " ") open();
              else if (event.key === "Escape") put(model, { selected: [] });
              else if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
                const next = one.points[index + (event.key === "ArrowRight" ? 1 : -1)];
                if (next) canvas.querySelector(`[data-point="${one.number}:${next.k}"]`)?.focus();
              } else return;
              event.preventDefault();
              event.stopPropagation();
            } } },
        bar, dots, mark(kind, X(p.k), Y(p.mean), 5, { fill: colour }), el("svg:circle", { class: "ll-ring", cx: X(p.k), cy: Y(p.mean), r: 10, stroke: colour })));
        spots.push({ x: X(p.k), y: Y(p.mean), tell, open, node: marks[marks.length - 1] });
      });
      const end = one.points[one.points.length - 1];
      ends.push({ x: X(end.k), y: Y(end.mean), text: lineName(one.name), colour });
    }
    // Names stand right of the picture, pushed apart from below so that none covers another.
    ends.sort((a, b) => b.y - a.y);
    let below = Infinity;
    for (const end of ends) {
      const y = Math.min(end.y, below - 15);
      below = y;
      const alone = end.x < W - RIGHT - 60;
      parts.push(alone ? el("svg:line", { x1: end.x + 12, x2: W - RIGHT + 4, y1: end.y, y2: y, stroke: end.colour, "stroke-width": 0.8, opacity: 0.45 }) : null);
      parts.push(el("svg:text", { class: "ll-name", x: W - RIGHT + 8, y: y + 4, style: { fill: end.colour } }, end.text.length > 26 ? `${end.text.slice(0, 25)}\u2026` : end.text, el("svg:title", {}, end.text)));
    }
    // The mouse finds the nearest point: where lines meet, marks cover one another and could not be hit by themselves.
    const nearest = (event) => {
      const box = svg.getBoundingClientRect(), scale = box.width / W;
      const far = (spot) => Math.hypot(event.clientX - box.left - spot.x * scale, event.clientY - box.top - spot.y * scale);
      const best = spots.reduce((a, b) => (far(b) < far(a) ? b : a));
      return far(best) <= REACH ? best : null;
    };
    let near = null;
    const approach = (spot) => {
      if (spot === near) return;
      near?.node.classList.remove("ll-near");
      near = spot;
      if (!near) { tip.hidden = true; return; }
      near.node.classList.add("ll-near");
      near.tell();
    };
    const svg = el("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "group", "aria-label": "accuracy against the number of demonstrations",
      on: { mousemove: (event) => approach(nearest(event)), mouseleave: () => approach(null), click: (event) => nearest(event)?.open() } }, parts, marks);
    replace(canvas, svg);
    if (focused) canvas.querySelector(`[data-point="${focused}"]`)?.focus();
  }

  function drawDifference() {
    const lines = model.get("series");
    const options = lines.map((one, number) => [String(number), one.name.join(", ")]);
    const { rows = [], why } = model.get("difference");
    const focused = compared.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    replace(compared, lines.length > 1 ? [
      el("h3", {}, "Paired difference of two lines"),
      el("div", { class: "ll-bar" }, select("of", options, String(model.get("left")), (value) => put(model, { left: Number(value) })),
        select("minus", options, String(model.get("right")), (value) => put(model, { right: Number(value) }))),
      why ? el("p", { role: "note" }, why) : null,
      rows.length ? el("table", { class: "ll-number" }, el("thead", {}, el("tr", {}, ["k", "points", "95 % interval", "p (Holm)", "verdict"].map((h) => el("th", { scope: "col" }, h)))),
        el("tbody", {}, rows.map((r) => el("tr", { class: r.real ? "ll-real" : "" }, [r.k.toLocaleString("en"), signed(r.mean), `${signed(r.low)} to ${signed(r.high)}`,
          r.p_holm < 0.001 ? "< 0.001" : r.p_holm.toFixed(3), r.real ? "real" : `not told apart; needs ${r.needed}`].map((cell) => el("td", {}, cell)))))) :
        why ? null : el("p", { class: "ll-quiet" }, "Both are the same line."),
    ] : null);
    if (focused) compared.querySelector(`select[aria-label="${focused}"]`)?.focus();
  }

  function drawInside() {
    const detail = model.get("detail");
    if (!detail.labels) {
      replace(inside, el("p", { class: "ll-quiet" }, detail.why || "Click a point, or press Enter on it, to see which queries it misses."));
      return;
    }
    const most = detail.confusion.map((row) => Math.max(1, row.reduce((a, b) => a + b, 0)));
    const matrix = el("div", { class: "ll-matrix" }, el("table", {}, el("thead", {}, el("tr", {}, ["right \\ answered", ...detail.labels].map((name) => el("th", { scope: "col", dir: "auto" }, name)))),
      el("tbody", {}, detail.confusion.map((row, r) => el("tr", {}, el("th", { scope: "row", dir: "auto" }, detail.labels[r]),
        row.map((n) => el("td", { style: { background: `rgba(0, 114, 178, ${(0.65 * n) / most[r]})` } }, n)))))));
    const list = el("div", { class: "ll-list", tabindex: 0, role: "group", "aria-label": "misclassified queries" }, el("table", {}, el("thead", {}, el("tr", {}, ["query", "right", "missed by"].map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, detail.wrong.map((item) => el("tr", {}, el("td", {}, item.text ? words(item.text) : `number ${item.query}`), el("td", { dir: "auto" }, item.right),
        el("td", {}, item.answers.filter((a) => a.wrong).map((a) => el("div", { dir: "auto" }, `seed ${a.seed}: ${a.label} (${percent(a.probability, 0)})`))))))));
    replace(inside, el("h3", {}, detail.title), el("div", { class: "ll-panels" }, matrix, list),
      el("p", { class: "ll-quiet" }, `${detail.wrong_in_all.toLocaleString("en")} queries are missed by a seed or more; ${detail.wrong.length} are listed.`,
        detail.texts ? "" : " Give tasks=[...] to see texts and demonstrations."),
      detail.demonstrations.map((one) => el("details", {}, el("summary", {}, `demonstrations of seed ${one.seed} (${one.texts.length} of ${one.of.toLocaleString("en")})`),
        el("ol", {}, one.texts.map(([place, text]) => el("li", { value: place }, words(text)))))));
    ui.say(`${detail.title}: ${detail.wrong_in_all} queries missed`);
  }

  const all = () => { drawSwitches(); draw(); drawDifference(); };
  for (const trait of ["tasks", "methods", "calibrations"]) heard.on(`change:${trait}`, draw);
  heard.on("change:series", () => { draw(); drawDifference(); });
  heard.on("change:selected", draw);
  for (const trait of ["left", "right", "difference"]) heard.on(`change:${trait}`, drawDifference);
  heard.on("change:detail", drawInside);
  heard.on("change:message", () => ui.warn(model.get("message")));
  ui.warn(model.get("message"));
  all();
  drawInside();
  return () => heard.stop();
}

export default { render };
