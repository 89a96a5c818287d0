// Uploads an image (chosen, dropped, pasted, or an example) and shows the networks' predictions.
// Strings from a run or a file are set as text, never as markup.
"use strict";

const find = (selector, inside = document) => inside.querySelector(selector);
const cards = [...document.querySelectorAll("article")];
const { url, maxBytes } = document.body.dataset;
let pending = null; // the request in progress; a newer one aborts it

const make = (name, text, ...classes) => {
  const element = document.createElement(name);
  element.textContent = text;
  element.classList.add(...classes);
  return element;
};

const bar = ([name, probability], label) => {
  const percent = `${(100 * probability).toFixed(1)} %`;
  const item = document.createElement("li");
  item.append(make("span", name), make("span", percent, "percent"), make("span", "", "bar"));
  item.style.setProperty("--at", `${100 * probability}%`);
  if (name === label) {
    item.classList.add("truth");
    item.firstChild.append(make("span", " (true)", "aside"));
  }
  return item;
};

// A set of classes with its coverage, or "none of these"; nothing where the command asked for none.
const describe = (answer) => {
  if (!answer) return [];
  const { text, coverage, accepted } = answer;
  const level = coverage && accepted ? `, ${+(100 * coverage).toFixed(4)} %` : "";
  return [make("strong", text), make("span", level, "aside")];
};

const clear = (card) => {
  for (const image of card.querySelectorAll("img")) image.hidden = true;
  find("ol", card).replaceChildren();
  find(".answer", card).replaceChildren();
  find(".note", card).textContent = "";
};

const fill = (card, prediction, label) => {
  const [photo, heat] = card.querySelectorAll("img");
  find(".picture", card).style.setProperty("--shape", prediction.shape);
  photo.src = prediction.picture;
  photo.hidden = false;
  heat.hidden = !prediction.heat;
  if (prediction.heat) heat.src = prediction.heat;
  heat.alt = `Bright where the image speaks for ${prediction.top[0][0]}, by ${prediction.name}`;
  find(".answer", card).replaceChildren(...describe(prediction.answer));
  find("ol", card).replaceChildren(...prediction.top.map((each) => bar(each, label)));
  const together = prediction.batch_size > 1 ? ` for ${prediction.batch_size} images together` : "";
  const latency = `${prediction.latency_ms.toFixed(1)} ms${together}`;
  find(".note", card).textContent = `${latency}. ${prediction.note}`;
};

const show = ({ summary, predictions }, label) => {
  const truth = label === undefined ? "" : ` The test set's label is ${label}.`;
  find("#summary").textContent = summary + truth;
  cards.forEach((card, place) => fill(card, predictions[place], label));
};

const showProblem = (problem) => {
  find("#problem").textContent = problem;
  find("#problem").hidden = !problem;
};

const setBusy = (busy) => {
  find("#results").ariaBusy = busy;
  if (busy) find("#summary").textContent = "Predicting …";
};

const readJson = async (response) => {
  const failed = "The program of this page failed; its terminal shows the error.";
  const content = await response.json().catch(() => ({ problem: failed }));
  if (!response.ok) throw new RangeError(content.problem);
  return content;
};

// `image` gives a blob, or a promise of one.
const predict = async (image, label) => {
  pending?.abort();
  const request = (pending = new AbortController());
  showProblem("");
  setBusy(true);
  try {
    const body = await image();
    if (body.size > maxBytes) throw new RangeError("The file is too large.");
    const { signal } = request;
    show(await readJson(await fetch(url, { method: "POST", body, signal })), label);
  } catch (error) {
    if (request.signal.aborted) return;
    const ended = "The program of this page does not respond: is it still running?";
    cards.forEach(clear);
    find("#summary").textContent = "No prediction.";
    showProblem(error instanceof RangeError ? error.message : ended);
  }
  setBusy(false);
  find("#results").scrollIntoView({ block: "nearest" });
};

const take = (files, otherwise) => {
  mark(null);
  if (files.length) predict(() => files[0]);
  else showProblem(otherwise);
};

const mark = (chosen) => {
  for (const each of document.querySelectorAll(".examples button")) {
    each.ariaPressed = each === chosen;
  }
};

for (const button of document.querySelectorAll(".examples button")) {
  button.addEventListener("click", () => {
    mark(button);
    predict(async () => (await fetch(find("img", button).src)).blob(), button.dataset.label);
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
  take(clipboardData.files, "The clipboard holds no image file.");
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
  take(event.dataTransfer.files, "Nothing was dropped that is a file: save the image first.");
});
