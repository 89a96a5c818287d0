// Takes an image (chosen, dropped, pasted, or an example), asks the networks, and fills their cards.
// What came from a run or a file is set as text, never as markup.
"use strict";

const find = (selector, inside = document) => inside.querySelector(selector);
const cards = [...document.querySelectorAll("article")];
const { answer, maxBytes } = document.body.dataset;
let asked = null; // the question under way; a newer one ends it

const make = (name, text, ...classes) => {
  const element = document.createElement(name);
  element.textContent = text;
  element.classList.add(...classes);
  return element;
};

const bar = ([name, probability], truth) => {
  const percent = `${(100 * probability).toFixed(1)} %`;
  const item = document.createElement("li");
  item.append(make("span", name), make("span", percent, "percent"), make("span", "", "bar"));
  item.style.setProperty("--at", `${100 * probability}%`);
  if (name === truth) {
    item.classList.add("truth");
    item.firstChild.append(make("span", " (true)", "aside"));
  }
  return item;
};

const empty = (card) => {
  for (const image of card.querySelectorAll("img")) image.hidden = true;
  find("ol", card).replaceChildren();
  find(".note", card).textContent = "";
};

const fill = (card, said, truth) => {
  const [photo, heat] = card.querySelectorAll("img");
  find(".picture", card).style.setProperty("--shape", said.shape);
  photo.src = said.picture;
  photo.hidden = false;
  heat.hidden = !said.heat;
  if (said.heat) heat.src = said.heat;
  heat.alt = `Bright where ${said.name} found ${said.top[0][0]}`;
  find("ol", card).replaceChildren(...said.top.map((each) => bar(each, truth)));
  find(".note", card).textContent = `${said.latency_ms.toFixed(1)} ms. ${said.missing}`;
};

const show = (found, truth) => {
  const inTruth = truth === undefined ? "" : ` The test set says ${truth}.`;
  find("#says").textContent = found.says + inTruth;
  cards.forEach((card, place) => fill(card, found.answers[place], truth));
};

const complain = (problem) => {
  find("#problem").textContent = problem;
  find("#problem").hidden = !problem;
};

const wait = (waits) => {
  find("#said").ariaBusy = waits;
  if (waits) find("#says").textContent = "Asking the networks …";
};

const asJson = async (response) => {
  const failed = "The program behind this page failed; its screen says why.";
  const found = await response.json().catch(() => ({ problem: failed }));
  if (!response.ok) throw new RangeError(found.problem);
  return found;
};

// `image` gives a blob, or a promise of one.
const ask = async (image, truth) => {
  asked?.abort();
  const question = (asked = new AbortController());
  complain("");
  wait(true);
  try {
    const body = await image();
    if (body.size > maxBytes) throw new RangeError("The file is larger than this page takes.");
    const { signal } = question;
    show(await asJson(await fetch(answer, { method: "POST", body, signal })), truth);
  } catch (error) {
    if (question.signal.aborted) return;
    const ended = "The program behind this page does not answer: is it still running?";
    cards.forEach(empty);
    find("#says").textContent = "No answer.";
    complain(error instanceof RangeError ? error.message : ended);
  }
  wait(false);
  find("#said").scrollIntoView({ block: "nearest" });
};

const take = (files, otherwise) => {
  mark(null);
  if (files.length) ask(() => files[0]);
  else complain(otherwise);
};

const mark = (chosen) => {
  for (const each of document.querySelectorAll(".examples button")) {
    each.ariaPressed = each === chosen;
  }
};

for (const button of document.querySelectorAll(".examples button")) {
  button.addEventListener("click", () => {
    mark(button);
    ask(async () => (await fetch(find("img", button).src)).blob(), button.dataset.truth);
  });
}

find("#choose").addEventListener("click", () => find("#file").click());
find("#file").addEventListener("change", ({ target }) => {
  if (target.files.length) take([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
find("#heat").addEventListener("change", ({ target }) => {
  find(".networks").classList.toggle("bare", !target.checked);
});

addEventListener("paste", ({ clipboardData }) => {
  take(clipboardData.files, "What was pasted is no image file.");
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take(event.dataTransfer.files, "What was dropped is no file: save the image first.");
});
