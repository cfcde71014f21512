// GroupAttention: one canvas, a cursor for keys, a reading for everyone.

function render({ model, el: root }) {
  const ui = frame(root, "attention", "Attention by group");
  const heard = listen(model);
  let cursor = model.get("selected").length === 2 && !model.get("by_head") ? [...model.get("selected")] : [0, 0];
  const floats = (name) => { const b = bytesOf(model.get(name)); return new Float32Array(b.slice().buffer); };
  let values = floats("values"), among = floats("among");
  const shape = () => model.get("shape"); // layers, heads + 1, groups + 1
  const group = () => model.get("selected")[1] ?? shape()[2] - 1;
  const columns = () => {
    if (model.get("by_head")) return shape()[1];
    return model.get("own") ? shape()[2] : shape()[2] - 1;
  };

  // The share in a layer and a column of the map that is shown.
  function share(layer, column) {
    const [, heads, all] = shape();
    const head = model.get("by_head") ? column : model.get("head");
    const place = model.get("by_head") ? group() : column;
    if (model.get("own") || place === all - 1) return values[(layer * heads + head) * all + place];
    return among[(layer * heads + head) * (all - 1) + place];
  }
  const headName = (h) => (h === shape()[1] - 1 ? "mean of heads" : `head ${h + 1}`);
  const columnName = (c) => (model.get("by_head") ? headName(c) : model.get("columns")[c]);
  const reading = (layer, column) => `layer ${layer + 1}, ${columnName(column)}${model.get("by_head") ? ` to ${model.get("columns")[group()]}` : `, ${headName(model.get("head"))}`}: ${number(share(layer, column), 4)}`;

  const canvas = el("canvas", { tabindex: 0, role: "application", on: { click: onPoint, mousemove: onPoint, mouseleave: () => show(...cursor), keydown: onKey } });
  const line = el("div", { class: "ll-number ll-reading", "aria-live": "polite" });
  const map = el("div", { class: "ll-map" }, canvas);
  const side = el("div", { class: "ll-side" });
  const key = el("canvas", { class: "ll-key", width: 180, height: 12, "aria-hidden": "true" });
  const top = el("span", { class: "ll-number ll-quiet" });
  const bar = el("div", { class: "ll-bar" });
  let cell = 14, left = 34;
  const rise = 18;

  const dark = () => document.body.dataset.jpThemeLight === "false";
  // From the page's own background to a strong blue; square root, since one column often holds most of the mass.
  function colour(strength) {
    const t = Math.sqrt(Math.max(0, Math.min(1, strength)));
    const [a, b] = dark() ? [[24, 28, 36], [120, 205, 255]] : [[244, 247, 251], [8, 64, 140]];
    return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * t)).join(",")})`;
  }

  function paint() {
    const [layers] = shape(), count = columns();
    cell = Math.max(3, Math.min(26, Math.floor(760 / Math.max(1, count))));
    const tall = Math.max(6, Math.min(22, Math.floor(560 / layers)));
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [left + count * cell + 2, rise + layers * tall + 2];
    canvas.width = w * scale; canvas.height = h * scale;
    canvas.style.width = `${w}px`; canvas.style.height = `${h}px`;
    canvas.dataset.tall = tall;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    let largest = 0;
    for (let l = 0; l < layers; l++) for (let c = 0; c < count; c++) largest = Math.max(largest, share(l, c));
    for (let l = 0; l < layers; l++) for (let c = 0; c < count; c++) {
      pen.fillStyle = colour(share(l, c) / (largest || 1));
      pen.fillRect(left + c * cell, rise + l * tall, cell - (cell > 6 ? 1 : 0), tall - 1);
    }
    const style = getComputedStyle(root);
    pen.fillStyle = style.getPropertyValue("--ll-quiet") || "#666";
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const stepL = Math.ceil(14 / tall);
    for (let l = 0; l < layers; l += stepL) { pen.textAlign = "right"; pen.fillText(String(l + 1), left - 5, rise + (l + 0.5) * tall); }
    const stepC = Math.ceil(24 / cell);
    pen.textAlign = "center";
    const lastIsOwn = !model.get("by_head") && model.get("own"), lastIsMean = model.get("by_head");
    for (let c = 0; c < count; c += stepC) if (!((lastIsOwn || lastIsMean) && c > count - 1 - stepC)) pen.fillText(String(c + 1), left + (c + 0.5) * cell, 8);
    if (lastIsOwn || lastIsMean) pen.fillText(lastIsOwn ? "own" : "mean", left + (count - 0.5) * cell - (cell < 24 ? 6 : 0), 8);
    pen.strokeStyle = dark() ? "#ffca28" : "#e65100";
    pen.lineWidth = 2;
    pen.strokeRect(left + cursor[1] * cell - 0.5, rise + cursor[0] * tall - 0.5, cell, tall);
    const ink = key.getContext("2d");
    for (let x = 0; x < 180; x++) { ink.fillStyle = colour(x / 180); ink.fillRect(x, 0, 1, 12); }
    top.textContent = number(largest, 3);
    canvas.setAttribute("aria-label", `heat map of ${layers} layers by ${count} ${model.get("by_head") ? "heads" : "groups"}; arrow keys move, Enter selects`);
  }

  const show = (layer, column) => { if (column < columns()) line.textContent = reading(layer, column); };
  function at(event) {
    const box = canvas.getBoundingClientRect(), tall = Number(canvas.dataset.tall);
    const [l, c] = [Math.floor((event.clientY - box.top - rise) / tall), Math.floor((event.clientX - box.left - left) / cell)];
    return l >= 0 && l < shape()[0] && c >= 0 && c < columns() ? [l, c] : null;
  }
  function onPoint(event) {
    const place = at(event);
    if (!place) return;
    show(...place);
    if (event.type === "click") { cursor = place; choose(); }
  }
  // A cell names a group, unless the columns are heads: then the group stays.
  function choose() {
    put(model, { selected: [cursor[0], model.get("by_head") ? group() : cursor[1]] });
    paint();
  }
  function onKey(event) {
    const [layers] = shape(), count = columns();
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -count], End: [0, count] };
    if (moves[event.key]) {
      const [dl, dc] = moves[event.key];
      cursor = [Math.max(0, Math.min(layers - 1, cursor[0] + dl)), Math.max(0, Math.min(count - 1, cursor[1] + dc))];
      paint();
      show(...cursor);
    } else if (event.key === "Enter" || event.key === " ") choose();
    else return;
    event.preventDefault();
  }

  function drawSide() {
    const detail = model.get("detail");
    const largest = Math.max(...(detail.rows ?? []).map((row) => row.share ?? 0), 1e-12);
    replace(side, detail.title ? el("div", { class: "ll-label ll-title" }, detail.title) : el("div", { class: "ll-quiet" }, "Choose a cell to see the demonstrations of its group."),
      (detail.rows ?? []).map((row) => el("div", { class: "ll-demo" },
        row.share === null ? el("span", {}) : el("div", { class: "ll-track", "aria-hidden": "true" }, el("div", { class: "ll-fill", style: { width: `${(row.share / largest) * 100}%` } })),
        el("span", { class: "ll-number ll-quiet", title: row.layer === null ? "" : `largest in layer ${row.layer}` }, row.share === null ? "" : number(row.share, 4)),
        words(row.text))));
  }

  function drawBar() {
    const [, heads, all] = shape();
    const own = el("input", { type: "checkbox", class: "ll-own", checked: model.get("own"), on: { change: () => put(model, { own: own.checked }) } });
    replace(bar,
      select("columns", [["groups", "groups"], ["heads", `heads, for ${model.get("columns")[group()]}`]], model.get("by_head") ? "heads" : "groups", (v) => put(model, { by_head: v === "heads" })),
      model.get("by_head") ? null : select("head", Array.from({ length: heads }, (_, h) => [h, headName(h)]).reverse(), model.get("head"), (v) => put(model, { head: Number(v) })),
      el("label", { class: "ll-field" }, own, "own part"), model.get("own") ? null : el("span", { class: "ll-quiet" }, "shares among the groups"),
      el("span", { class: "ll-space" }), el("span", { class: "ll-quiet" }, "0"), key, top);
    if (all < 2) own.disabled = true;
  }

  function draw() {
    ui.warn(model.get("message"));
    cursor = [cursor[0], Math.max(0, Math.min(cursor[1], columns() - 1))];
    drawBar();
    paint();
    show(...cursor);
    drawSide();
  }

  ui.body.append(bar, line, el("div", { class: "ll-heat" }, map, side));
  for (const name of ["head", "own", "by_head", "message"]) heard.on(`change:${name}`, draw);
  heard.on("change:selected", draw);
  heard.on("change:detail", drawSide);
  heard.on("change:values", () => { values = floats("values"); among = floats("among"); draw(); });
  const themed = new MutationObserver(paint);
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  heard.also(() => themed.disconnect());
  draw();
  return () => heard.stop();
}

export default { render };
