"use strict";
const steps = JSON.parse(document.getElementById("steps").textContent);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function alternative([word, value, share, taken]) {
  const item = element("li");
  item.append(element("span", taken ? "word taken" : "word", word), element("span", "value", value));
  const track = element("span", "track"), bar = element("i");
  bar.style.width = share + "%";
  track.append(bar);
  item.append(track);
  return item;
}

for (const text of document.querySelectorAll(".text")) {
  const number = text.dataset.text, panel = document.querySelector(`.step[data-for="${number}"]`);
  const buttons = [...text.querySelectorAll("[role=button]")], section = text.closest("section");
  let kept = null;

  const show = (at) => {
    const step = steps[number][at];
    for (const other of document.querySelectorAll(".step")) other.classList.toggle("quiet", other !== panel);
    const list = element("ul", "others");
    list.append(...step.others.map(alternative));
    const facts = `token ${at + 1} of ${buttons.length} · id ${step.id} · ${step.probability} · ${step.bits} bits`;
    panel.replaceChildren(element("h2", "", step.says), element("p", "facts", facts), list);
    for (const bar of section.querySelectorAll("rect.at")) bar.classList.remove("at");
    section.querySelector(`rect[data-step="${at}"]`)?.classList.add("at");
  };
  const choose = (at, focus) => {
    kept = at;
    buttons.forEach((button, place) => {
      button.setAttribute("aria-pressed", String(place === at));
      button.tabIndex = place === at ? 0 : -1;
    });
    if (focus) buttons[at].focus();
    show(at);
  };
  const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };

  if (buttons.length && matchMedia("(min-width: 761px)").matches) show(0);
  section.addEventListener("pointerover", (event) => {
    const at = event.target.dataset?.step;
    if (at !== undefined && event.pointerType !== "touch") show(Number(at));
  });
  section.addEventListener("pointerleave", () => { if (kept !== null) show(kept); });
  section.addEventListener("click", (event) => {
    const at = event.target.dataset?.step;
    if (at !== undefined) choose(Number(at), false);
  });
  text.addEventListener("focusin", (event) => {
    const at = event.target.dataset?.step;
    if (at !== undefined) choose(Number(at), false);
  });
  text.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.target.dataset?.step === undefined) return;
    event.preventDefault();
    const to = Number(event.target.dataset.step) + moves[event.key];
    choose(Math.max(0, Math.min(buttons.length - 1, to)), true);
  });
}
