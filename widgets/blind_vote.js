// BlindVote: two results, four answers, one key each.

const ANSWERS = [["left", "1", "left is better"], ["right", "2", "right is better"], ["tie", "3", "tie"], ["bad", "4", "both bad"]];

function render({ model, el: root }) {
  const ui = frame(root, "vote", "Blind vote");
  const heard = listen(model);
  let urls = [];
  let since = performance.now();
  let waiting = false; // an answer is on its way to the kernel

  const forget = () => urls.splice(0).forEach((url) => URL.revokeObjectURL(url));

  function vote(choice) {
    if (waiting || model.get("current").number === undefined) return;
    waiting = true;
    root.querySelectorAll(".ll-choice").forEach((node) => { node.disabled = true; });
    model.send({ kind: "vote", number: model.get("current").number, choice, seconds: (performance.now() - since) / 1000 });
  }
  const undo = () => { if (!waiting && model.get("done")) model.send({ kind: "undo" }); };

  function side(name) {
    const text = model.get("current")[name];
    let inside;
    if (typeof text === "string") inside = words(text);
    else {
      const url = blobURL(bytesOf(model.get(`${name}_picture`)));
      urls.push(url);
      inside = el("img", { src: url, alt: `picture on the ${name}` });
    }
    return el("div", { class: "ll-pane", role: "group", "aria-label": `${name} result` }, inside);
  }

  function pairView() {
    const { prompt } = model.get("current");
    return [
      el("div", { class: "ll-question" }, el("b", {}, model.get("question")), prompt ? words(prompt, { class: "ll-asked" }) : null),
      el("div", { class: "ll-pair" }, side("left"), side("right")),
      el("div", { class: "ll-choices", role: "group", "aria-label": "your answer" },
        ANSWERS.map(([choice, key, label]) => button([el("kbd", {}, key), label], () => vote(choice),
          { class: "ll-button ll-choice", "data-choice": choice, "aria-keyshortcuts": key })),
        button([el("kbd", {}, "u"), "undo"], undo, { class: "ll-button ll-undo", disabled: !model.get("done"), "aria-keyshortcuts": "u" })),
    ];
  }

  function interval([value, low, high]) {
    if (value === null) return null;
    const at = (v) => `${v * 100}%`;
    return el("div", { class: "ll-interval", style: { width: "160px" }, "aria-hidden": "true" },
      el("i", { style: { left: "50%", width: "1px", top: "-3px", height: "16px", background: "var(--ll-quiet)" } }),
      el("i", { style: { left: at(low), width: at(high - low) } }), el("b", { style: { left: at(value) } }));
  }

  function outcomeView() {
    const outcome = model.get("outcome");
    const cells = (values) => values.map((v) => el("td", { class: "ll-number" }, v));
    return [
      el("table", { class: "ll-rates" }, el("thead", {}, el("tr", {},
        ["pair", "win rate of the first", "", "wins", "ties", "both bad", "more votes to decide"].map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, outcome.rates.map((r) => el("tr", {}, el("th", { scope: "row" }, words(r.pair)), cells([r.rate, interval(r.value), r.wins, r.ties, r.bad, r.more]))))),
      el("table", { style: { "margin-top": "12px" } }, el("thead", {}, el("tr", {}, ["system", "Bradley-Terry score", "95% interval"].map((h) => el("th", { scope: "col" }, h)))),
        el("tbody", {}, outcome.strengths.map((r) => el("tr", {}, el("th", { scope: "row" }, words(r.system)), cells([r.score, `[${r.low}, ${r.high}]`]))))),
      el("p", { class: "ll-quiet" }, `${outcome.bias}; ${outcome.consistency}.`),
    ];
  }

  function draw() {
    waiting = false;
    since = performance.now();
    const inside = root.contains(document.activeElement) || document.activeElement === root;
    forget();
    ui.warn(model.get("message"));
    const [done, total] = [model.get("done"), model.get("total")];
    const over = model.get("current").number === undefined;
    replace(ui.body,
      el("div", { class: "ll-bar" },
        el("progress", { max: total, value: done, "aria-label": "pairs judged" }),
        el("span", { class: "ll-number ll-done" }, `${done} of ${total}`),
        el("span", { class: "ll-quiet" }, model.get("more")),
        el("span", { class: "ll-space" }),
        over ? null : button("End and reveal", () => { if (confirmed()) model.send({ kind: "reveal" }); }, { class: "ll-button ll-reveal", disabled: !done })),
      over ? outcomeView() : pairView());
    if (inside) root.focus({ preventScroll: true });
    ui.say(over ? "The vote is over; the results are shown." : `pair ${done + 1} of ${total}`);
  }

  // The first press asks, the second ends: after that the vote is no longer blind.
  let asked = false;
  function confirmed() {
    if (asked) return true;
    asked = true;
    const node = root.querySelector(".ll-reveal");
    node.textContent = "Really end? Identities will be shown";
    setTimeout(() => { asked = false; if (node.isConnected) node.textContent = "End and reveal"; }, 4000);
    return false;
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const answer = ANSWERS.find(([choice, key]) => key === event.key || (choice === "tie" && event.key === "t") || (choice === "bad" && event.key === "b"));
    if (answer) vote(answer[0]);
    else if (event.key === "u" || event.key === "U") undo();
    else return;
    event.preventDefault();
  }

  root.tabIndex = 0;
  root.addEventListener("keydown", onKey);
  heard.also(() => root.removeEventListener("keydown", onKey));
  heard.also(forget);
  // `done` changes with every vote and undo; pictures and texts have arrived in the same message.
  let due = 0;
  const soon = () => { cancelAnimationFrame(due); due = requestAnimationFrame(draw); };
  for (const name of ["done", "current", "outcome", "message"]) heard.on(`change:${name}`, soon);
  draw();
  return () => heard.stop();
}

export default { render };
