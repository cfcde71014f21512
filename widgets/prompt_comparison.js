// PromptComparison: a grid of pictures (or a table of texts), a full-size view, prompts edited in place.

const PAGE = 50; // text items shown at once

function render({ model, el: root }) {
  const ui = frame(root, "comparison", "Comparison of prompts");
  const heard = listen(model);
  const full = new Map(); // full-size pictures by content: key -> URL
  let urls = []; // small copies, [rows][seeds]
  let page = 0;
  let pair = [0, 1];
  let cursor = [0, 0];
  let size = 128;
  let editing = null;

  const rows = () => model.get("rows");
  const seeds = () => model.get("seeds");
  const order = () => model.get("orders")[model.get("sort_by")] ?? model.get("orders")[""];
  const starred = (row, seed) => model.get("stars").some(([r, s]) => r === rows()[row].id && s === seeds()[seed]);

  // Rows and seeds in the order shown, after the filter.
  function visible() {
    const { rows: r, seeds: s } = order();
    if (!model.get("only_different")) return { r, s };
    const differs = model.get("differs");
    return { r: r.filter((i) => i === 0 || differs[i].some(Boolean)), s: s.filter((j) => differs[0][j]) };
  }

  function unpack() {
    urls.flat().forEach((url) => url && URL.revokeObjectURL(url));
    const thumbs = model.get("thumbs");
    urls = rows().map((row, i) => (row.spans ?? []).map((span) =>
      span ? blobURL(bytesOf(thumbs[i]).slice(span[0], span[1])) : null));
  }

  // --- parts of a row ---

  const diff = (row) => el("div", { class: "ll-text", dir: "auto" },
    row.diff.map(([kind, text]) => el({ same: "span", added: "ins", removed: "del" }[kind], {}, text)));

  function budgetBar(budget) {
    if (!budget) return null;
    const over = budget.tokens > budget.limit;
    const share = Math.min(1, budget.tokens / budget.limit) * 100;
    return el("div", { class: "ll-budget" },
      el("div", { class: "ll-track", role: "img", "aria-label": `${budget.tokens} of ${budget.limit} tokens` },
        el("div", { class: `ll-fill ${over ? "ll-over" : ""}`, style: { width: `${share}%` } })),
      el("span", { class: "ll-quiet ll-number" }, `${budget.tokens} / ${budget.limit} tokens`),
      over && el("div", { style: { "grid-column": "1 / 3", "font-size": "12px" } },
        el("b", {}, "not read: "), el("span", { dir: "auto" }, budget.cut)));
  }

  function stats(row) {
    const all = rows();
    return el("div", { class: "ll-stats" }, Object.entries(row.summary).map(([name, s]) => {
      const ends = all.flatMap((r) => Object.values(r.summary[name] ? [r.summary[name].low ?? r.summary[name].mean, r.summary[name].high ?? r.summary[name].mean] : []))
        .filter((v) => v !== null);
      const low = Math.min(...ends), span = Math.max(...ends) - low || 1;
      const at = (v) => `${((v - low) / span) * 100}%`;
      const change = s.change === null ? "" :
        `change ${s.change >= 0 ? "+" : ""}${number(s.change)}${s.change_low === null ? "" : ` [${number(s.change_low)}, ${number(s.change_high)}]`}`;
      const bounds = s.low === null ? "" : ` [${number(s.low)}, ${number(s.high)}]`;
      return [
        el("b", {}, name),
        el("span", { class: "ll-number" }, s.mean === null ? "no scores" : number(s.mean) + bounds),
        s.mean === null ? el("span", {}) : el("div", { class: "ll-interval", "aria-hidden": "true" },
          s.low !== null && el("i", { style: { left: at(s.low), width: `calc(${at(s.high)} - ${at(s.low)})` } }),
          el("b", { style: { left: at(s.mean) } })),
        el("span", { class: "ll-quiet ll-number" }, change)];
    }));
  }

  function editor(row) {
    const progress = model.get("progress");
    const running = progress.row === row.id && progress.state === "running";
    const box = el("textarea", { class: "ll-editor", dir: "auto", "aria-label": `prompt ${row.label}`, value: editing.text, disabled: running,
      on: { input: () => { editing.text = box.value; askBudget(row.id); } } });
    const fresh = el("input", { type: "checkbox", checked: editing.fresh, on: { change: () => { editing.fresh = fresh.checked; } } });
    const bar = el("div", { class: "ll-edit-budget" }, budgetBar(editing.budget ?? row.budget));
    return el("div", { class: "ll-edit" }, box, bar,
      el("label", { class: "ll-field" }, fresh, "keep the old row"),
      el("div", { class: "ll-bar", style: { margin: "6px 0 0" } },
        button("Run", () => model.send({ kind: "run", row: row.id, text: box.value, new: fresh.checked }), { class: "ll-button ll-primary ll-run", disabled: running }),
        running ? button("Cancel", () => model.send({ kind: "cancel" }), { class: "ll-button ll-cancel" })
          : button("Close", () => { editing = null; draw(); }),
        progress.row === row.id && progress.total ? el("progress", { max: progress.total, value: progress.done, "aria-label": "pictures drawn" }) : null,
        progress.row === row.id ? el("span", { class: "ll-quiet ll-progress" }, progress.text) : null));
  }

  let budgetTimer;
  function askBudget(row) {
    clearTimeout(budgetTimer);
    budgetTimer = setTimeout(() => editing && model.send({ kind: "budget", row, text: editing.text }), 300);
  }

  const prompt = (row, i) => [
    el("div", { class: "ll-label", dir: "auto" }, row.label),
    editing?.row === row.id ? editor(row) : [diff(row), budgetBar(row.budget)],
    el("div", { class: "ll-bar", style: { margin: 0 } },
      model.get("editable") && editing?.row !== row.id
        ? button("Edit", () => { editing = { row: row.id, text: row.text, fresh: false }; draw(); root.querySelector(".ll-editor")?.focus(); },
          { class: "ll-button ll-edit-button", "aria-label": `edit the prompt ${row.label}` }) : null,
      !model.get("texts") && rows().length > 1 ? button("Compare row", () => open(i, visible().s[0] ?? 0, { mode: "rows", other: i === 0 ? 1 : 0 }),
        { class: "ll-button", "aria-label": `compare the whole row ${row.label}` }) : null),
  ];

  // --- the grid of pictures ---

  function cell(i, j, seed, name) {
    const score = model.get("sort_by");
    const value = score ? rows()[i].scores[score]?.[j] : undefined;
    const label = `${rows()[i].label}, seed ${seed}${score ? `, ${score} ${number(value)}` : ""}${starred(i, j) ? ", starred" : ""}`;
    return el("div", { class: "ll-cell", role: "gridcell", tabindex: -1, "data-row": i, "data-seed": j, "aria-label": label },
      urls[i]?.[j] ? el("img", { src: urls[i][j], alt: "", loading: "lazy", decoding: "async", draggable: "false" }) : el("div", { class: "ll-missing" }, "missing"),
      starred(i, j) ? el("span", { class: "ll-star", "aria-hidden": "true" }, "\u2605") : null,
      el("div", { class: "ll-caption ll-number" }, score ? number(value) : ""));
  }

  function grid() {
    const { r, s } = visible();
    if (!s.length) {
      return el("div", { class: "ll-quiet ll-nothing" }, model.get("only_different") && seeds().length
        ? "Every prompt gave the same for every seed: nothing differs." : "There are no pictures.",
        el("div", {}, rows().map((row, i) => el("div", { class: "ll-prompt" }, prompt(row, i)))));
    }
    return el("div", { class: "ll-scroll", role: "grid", "aria-label": "pictures: rows are prompts, columns are seeds", style: { "--ll-size": `${size}px` },
      on: { click: onClick, keydown: onKey, focusin: onFocus } },
      el("div", { class: "ll-grid" },
        el("div", { class: "ll-seeds", role: "row" }, el("div", { class: "ll-head ll-quiet", role: "columnheader" }, "prompt \\ seed"),
          s.map((j) => el("div", { class: "ll-seed ll-number", role: "columnheader" }, seeds()[j]))),
        r.map((i) => el("div", { class: "ll-row", role: "row" },
          el("div", { class: "ll-prompt", role: "rowheader" }, prompt(rows()[i], i)),
          el("div", {}, el("div", { class: "ll-cells" }, s.map((j) => cell(i, j, seeds()[j]))), stats(rows()[i]))))));
  }

  const cellAt = (i, j) => root.querySelector(`.ll-cell[data-row="${i}"][data-seed="${j}"]`);
  const placeOf = (node) => { const c = node.closest?.(".ll-cell"); return c ? [Number(c.dataset.row), Number(c.dataset.seed)] : null; };
  function onFocus(event) {
    const at = placeOf(event.target);
    if (!at) return;
    root.querySelectorAll('.ll-cell[tabindex="0"]').forEach((node) => node.setAttribute("tabindex", -1));
    cellAt(...at).setAttribute("tabindex", 0);
    cursor = at;
  }
  function onClick(event) {
    const at = placeOf(event.target);
    if (at) open(at[0], at[1], {});
  }
  function step([i, j], key) {
    const { r, s } = visible();
    const move = (list, at, by) => list[Math.max(0, Math.min(list.length - 1, list.indexOf(at) + by))];
    if (key === "ArrowRight") return [i, move(s, j, 1)];
    if (key === "ArrowLeft") return [i, move(s, j, -1)];
    if (key === "ArrowDown") return [move(r, i, 1), j];
    if (key === "ArrowUp") return [move(r, i, -1), j];
    if (key === "Home") return [i, s[0]];
    if (key === "End") return [i, s[s.length - 1]];
    return null;
  }
  function onKey(event) {
    const at = placeOf(event.target);
    if (!at) return;
    const next = step(at, event.key);
    if (next) cellAt(...next)?.focus();
    else if (event.key === "Enter" || event.key === " ") open(at[0], at[1], {});
    else if (event.key === "s" || event.key === "S") star(...at);
    else return;
    event.preventDefault();
  }

  function star(i, j) {
    const key = [rows()[i].id, seeds()[j]];
    const stars = model.get("stars");
    const rest = stars.filter(([r, s]) => r !== key[0] || s !== key[1]);
    put(model, { stars: rest.length < stars.length ? rest : [...stars, key] });
    ui.say(rest.length < stars.length ? "star removed" : "starred");
  }

  // --- the full-size view ---

  const dialog = el("dialog", { class: "ll-dialog", "aria-label": "full-size view", on: { keydown: onViewKey, close: () => { if (model.get("view").row) put(model, { view: {} }); } } });
  root.append(dialog);
  const viewAt = () => {
    const v = model.get("view");
    const i = rows().findIndex((row) => row.id === v.row), j = seeds().indexOf(v.seed);
    return i < 0 || j < 0 ? null : { i, j, other: rows().findIndex((row) => row.id === v.other), mode: v.mode ?? "one", blend: v.blend ?? 50 };
  };
  function open(i, j, { mode = "one", other = -1, blend = 50 }) {
    put(model, { view: { row: rows()[i].id, seed: seeds()[j], other: rows()[other]?.id ?? "", mode, blend } });
  }
  function change(changes) {
    const at = { ...viewAt(), ...changes };
    if (at.mode !== "one" && (at.other < 0 || at.other === at.i)) at.other = at.i === 0 ? Math.min(1, rows().length - 1) : 0;
    open(at.i, at.j, at);
  }
  function onViewKey(event) {
    if (event.target.matches("select, input")) return;
    const at = viewAt();
    if (!at) return;
    const next = step([at.i, at.j], event.key);
    const modes = { 1: "one", 2: "side", 3: "blend", 4: "rows", 5: "rowblend" };
    if (next) change({ i: next[0], j: next[1] });
    else if (modes[event.key] && (rows().length > 1 || event.key === "1")) change({ mode: modes[event.key] });
    else if (event.key === "s" || event.key === "S") star(at.i, at.j);
    else return;
    event.preventDefault();
  }

  // The picture in full; its small copy stands in until the kernel answers.
  function image(i, j) {
    const key = rows()[i].keys[j];
    if (!key) return el("div", { class: "ll-missing" }, "missing");
    const node = el("img", { src: full.get(key) ?? urls[i][j], alt: `${rows()[i].label}, seed ${seeds()[j]}`, "data-key": key, "data-full": full.has(key) ? "yes" : "no" });
    if (!full.has(key)) model.send({ kind: "picture", row: rows()[i].id, seed: seeds()[j] });
    return node;
  }

  function blended(i, other, j, share) {
    const top = image(other, j);
    top.style.opacity = share / 100;
    return el("div", { class: "ll-blend" }, image(i, j), top);
  }

  function drawView() {
    const at = viewAt();
    if (!at) {
      if (dialog.open) { dialog.close(); cellAt(...cursor)?.focus(); }
      return;
    }
    cursor = [at.i, at.j];
    const keep = dialog.open ? document.activeElement?.dataset?.name : null;
    const { i, j, other, mode } = at;
    const seed = seeds()[j];
    const pane = (k, ...inside) => el("figure", { class: "ll-pane" }, inside,
      el("figcaption", {}, el("span", { class: "ll-label" }, rows()[k].label), el("span", { class: "ll-quiet ll-number" },
        ` seed ${seed}`, Object.entries(rows()[k].scores).map(([n, v]) => `  ${n} ${number(v[j])}`)), words(rows()[k].text)));
    const slider = el("input", { type: "range", min: 0, max: 100, value: at.blend, "data-name": "blend", "aria-label": "blend between the two prompts",
      on: { input: () => dialog.querySelectorAll(".ll-blend img + img").forEach((top) => { top.style.opacity = slider.value / 100; }),
        change: () => change({ blend: Number(slider.value) }) } });
    const strip = (k) => el("div", {}, el("div", { class: "ll-label" }, rows()[k].label), words(rows()[k].text, { class: "ll-quiet" }),
      el("div", { class: "ll-strip" }, visible().s.map((s) => image(k, s))));
    const bodies = {
      one: () => el("div", { class: "ll-pair" }, pane(i, image(i, j))),
      side: () => el("div", { class: "ll-pair" }, pane(i, image(i, j)), pane(other, image(other, j))),
      blend: () => [blended(i, other, j, at.blend), el("div", { class: "ll-pair" }, pane(i), pane(other))],
      rows: () => [strip(i), strip(other)],
      rowblend: () => el("div", { class: "ll-strip" }, visible().s.map((s) => blended(i, other, s, at.blend))),
    };
    const options = [["one", "one picture"], ["side", "side by side"], ["blend", "blend"], ["rows", "two rows"], ["rowblend", "blend two rows"]];
    replace(dialog,
      el("div", { class: "ll-bar" },
        select("show", rows().length > 1 ? options : options.slice(0, 1), mode, (value) => change({ mode: value })),
        select("prompt", rows().map((row, k) => [k, row.label]), i, (value) => change({ i: Number(value) })),
        mode === "one" ? null : select("against", rows().map((row, k) => [k, row.label]), other, (value) => change({ other: Number(value) })),
        mode.endsWith("blend") ? el("label", { class: "ll-field" }, rows()[i].label, slider, rows()[other].label) : null,
        el("span", { class: "ll-space" }),
        button(starred(i, j) ? "\u2605 starred" : "\u2606 star", () => star(i, j), { "aria-pressed": String(starred(i, j)) }),
        button("Close", () => dialog.close(), { "data-name": "close" })),
      bodies[mode](),
      el("div", { class: "ll-quiet", style: { "margin-top": "10px" } }, el("kbd", {}, "\u2190 \u2192"), "seed  ", el("kbd", {}, "\u2191 \u2193"), "prompt  ",
        el("kbd", {}, "1\u20135"), "view  ", el("kbd", {}, "s"), "star  ", el("kbd", {}, "Esc"), "close"));
    if (!dialog.open) dialog.showModal();
    (keep && dialog.querySelector(`[data-name="${keep}"]`) || dialog.querySelector('[data-name="close"]')).focus();
    ui.say(`${rows()[i].label}, seed ${seed}`);
  }

  // --- texts ---

  function chances(row, j, gold) {
    const shares = row.probabilities?.[j];
    if (!shares) return null;
    return el("div", { class: "ll-prob" }, model.get("labels").map((label, l) => [
      el("span", { class: label === gold ? "ll-gold" : "" }, label),
      el("div", { class: "ll-track", "aria-hidden": "true" }, el("div", { class: "ll-fill", style: { width: `${(shares[l] ?? 0) * 100}%` } })),
      el("span", { class: "ll-number" }, number(shares[l]))]));
  }

  function textTable() {
    const all = rows();
    pair = pair.map((k) => Math.min(k, all.length - 1));
    const differs = model.get("differs");
    const items = order().seeds.filter((j) => !model.get("only_different") || all[pair[0]].outputs[j] !== all[pair[1]].outputs[j]);
    const pages = Math.max(1, Math.ceil(items.length / PAGE));
    page = Math.min(page, pages - 1);
    const menu = (side) => select(side ? "right" : "left", all.map((row, k) => [k, row.label]), pair[side], (value) => { pair[side] = Number(value); draw(); });
    const gold = model.get("gold");
    const head = pair.map((k, side) => el("th", { scope: "col" }, menu(side), prompt(all[k], k), stats(all[k])));
    const body = items.slice(page * PAGE, (page + 1) * PAGE).map((j) => el("tr", {},
      el("th", { scope: "row" }, words(seeds()[j]), gold[j] ? el("div", { class: "ll-quiet" }, "right: ", el("b", {}, gold[j])) : null),
      pair.map((k) => el("td", {}, words(all[k].outputs[j] ?? "missing"), chances(all[k], j, gold[j])))));
    return [
      items.length ? null : el("div", { class: "ll-quiet ll-nothing" }, "Nothing differs between these two prompts."),
      el("table", { class: "ll-outputs" }, el("colgroup", {}, el("col", { style: { width: "18%" } }), el("col"), el("col")),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "item"), head)), el("tbody", {}, body)),
      pages > 1 ? el("div", { class: "ll-bar" }, button("Previous", () => { page -= 1; draw(); }, { disabled: page === 0 }),
        el("span", { class: "ll-number" }, `page ${page + 1} of ${pages}, ${items.length.toLocaleString("en")} items`),
        button("Next", () => { page += 1; draw(); }, { disabled: page >= pages - 1 })) : null,
    ];
  }

  // --- everything ---

  function toolbar() {
    const scores = Object.keys(model.get("orders")).filter(Boolean);
    const only = el("input", { type: "checkbox", class: "ll-only", checked: model.get("only_different"), on: { change: () => put(model, { only_different: only.checked }) } });
    const zoom = el("input", { type: "range", min: 64, max: 256, step: 16, value: size, "aria-label": "size of the pictures",
      on: { input: () => { size = Number(zoom.value); root.querySelector(".ll-scroll")?.style.setProperty("--ll-size", `${size}px`); } } });
    const out = (format) => model.send({ kind: "export", format });
    return el("div", { class: "ll-bar" },
      scores.length ? select("sort by", [["", "as given"], ...scores.map((name) => [name, name])], model.get("sort_by"), (value) => put(model, { sort_by: value })) : null,
      el("label", { class: "ll-field" }, only, "only different"),
      model.get("texts") || !seeds().length ? null : el("label", { class: "ll-field" }, "size", zoom),
      el("span", { class: "ll-space" }),
      el("span", { class: "ll-quiet ll-stars" }, `\u2605 ${model.get("stars").length}`),
      model.get("texts") || !seeds().length ? null : button("PNG", () => out("png"), { "aria-label": "export the grid as PNG" }),
      button("HTML", () => out("html"), { "aria-label": "export as HTML" }));
  }

  function draw() {
    ui.warn(model.get("message"));
    const scroll = root.querySelector(".ll-scroll");
    const [left, top] = [scroll?.scrollLeft ?? 0, scroll?.scrollTop ?? 0];
    const focused = placeOf(document.activeElement ?? root);
    const facts = Object.entries(model.get("provenance"));
    replace(ui.body, toolbar(), rows().length ? (model.get("texts") ? textTable() : grid()) : null,
      facts.length ? el("div", { class: "ll-quiet", style: { "margin-top": "8px" } }, facts.map(([k, v]) => `${k}: ${v}`).join(" \u00b7 ")) : null);
    const after = root.querySelector(".ll-scroll");
    if (after) { after.scrollLeft = left; after.scrollTop = top; }
    const { r, s } = visible();
    if (!r.includes(cursor[0]) || !s.includes(cursor[1])) cursor = [r[0], s[0]];
    cellAt(...cursor)?.setAttribute("tabindex", 0);
    if (focused) cellAt(...cursor)?.focus({ preventScroll: true });
    drawView();
  }

  function drawProgress() {
    const progress = model.get("progress");
    if (progress.state === "done") editing = null;
    ui.say(progress.text ?? "");
    draw();
  }

  function receive(content, buffers) {
    if (content.kind === "picture") {
      const url = full.get(content.key) ?? blobURL(bytesOf(buffers[0]));
      full.set(content.key, url);
      for (const node of dialog.querySelectorAll("img[data-key]")) {
        if (node.dataset.key === content.key) { node.src = url; node.dataset.full = "yes"; }
      }
    } else if (content.kind === "budget" && editing?.row === content.row) {
      editing.budget = content.budget;
      replace(root.querySelector(".ll-edit-budget"), budgetBar(content.budget));
    } else if (content.kind === "export") {
      download(content.name, bytesOf(buffers[0]), content.name.endsWith("png") ? "image/png" : "text/html");
      ui.say(`${content.name} written`);
    }
  }

  heard.on("msg:custom", receive);
  heard.on("change:rows", () => { unpack(); draw(); });
  for (const name of ["sort_by", "only_different", "stars", "message"]) heard.on(`change:${name}`, draw);
  heard.on("change:view", drawView);
  heard.on("change:progress", drawProgress);
  heard.also(() => [...urls.flat(), ...full.values()].forEach((url) => url && URL.revokeObjectURL(url)));
  unpack();
  draw();
  return () => heard.stop();
}

export default { render };
