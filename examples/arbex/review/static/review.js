"use strict";

const find = (id) => document.getElementById(id);
const classes = [...document.querySelectorAll(".classes button")];
let faces = [];
let current = 0;
const history = []; // numbers of decided faces, for undo

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const picture = (number) => `faces/${number}.png`;

function show(number) {
  current = Math.max(0, Math.min(number, faces.length - 1));
  const face = faces[current];
  find("picture").src = picture(current);
  find("picture").alt = `face labelled ${face.given}`;
  find("name").textContent = face.name;
  find("given").textContent = face.given;
  find("suggested").textContent = face.suggested;
  find("doubt").textContent = `${Math.round(100 * face.doubt)} %`;
  const differs = face.suggested !== face.given;
  find("suggestion").hidden = find("accept").hidden = !differs;
  find("keep").classList.toggle("primary", !differs);
  find("accept").firstElementChild.textContent = `Accept ${face.suggested}`;
  find("keep").firstElementChild.textContent = `Keep ${face.given}`;
  find("decision").textContent = face.verdict === null ? "" : face.corrected === face.given ? `kept ${face.given}` : `corrected to ${face.corrected}`;
  for (const button of classes) {
    button.classList.toggle("chosen", button.dataset.label === face.corrected);
    button.setAttribute("aria-pressed", button.dataset.label === face.corrected);
  }
  const reviewed = faces.filter((each) => each.verdict !== null);
  const corrected = reviewed.filter((each) => each.corrected !== each.given).length;
  find("progress").max = faces.length;
  find("progress").value = reviewed.length;
  find("count").textContent = `${reviewed.length} of ${plural(faces.length, "face")} reviewed, ${corrected} corrected`;
  find("place").textContent = `${current + 1} of ${faces.length}`;
  find("previous").disabled = current === 0;
  find("next").disabled = current === faces.length - 1;
  find("undo").disabled = !history.length && face.verdict === null;
  find("done").hidden = reviewed.length < faces.length;
  if (current + 1 < faces.length) new Image().src = picture(current + 1); // so that it is there when it is needed
}

function tell(text) {
  find("problem").textContent = text;
  find("problem").hidden = !text;
}

async function decide(number, label) {
  try {
    const response = await fetch("decide", { method: "POST", body: JSON.stringify({ face: number, label }) });
    if (!response.ok) return tell(await response.text());
    faces[number] = await response.json();
  } catch (error) {
    return tell("The decision was not saved: the server did not respond. Is it still running?");
  }
  tell("");
  if (label === null) return show(number);
  history.push(number);
  const left = faces.findIndex((each, index) => index > number && each.verdict === null);
  show(left < 0 ? number + 1 : left);
}

// One decision at a time, so that fast keys are not lost and not mixed up.
let queue = Promise.resolve();
const after = (action) => (queue = queue.then(action));

const actions = {
  accept: () => decide(current, faces[current].suggested),
  keep: () => decide(current, faces[current].given),
  undo: () => {
    const last = faces[current].verdict === null ? history.pop() : current;
    return last === undefined ? undefined : decide(last, null);
  },
  previous: () => show(current - 1),
  next: () => show(current + 1),
};
const keys = { Enter: "accept", k: "keep", u: "undo", ArrowLeft: "previous", ArrowRight: "next" };

for (const name of Object.keys(actions)) find(name).addEventListener("click", () => after(actions[name]));
for (const button of classes) button.addEventListener("click", () => after(() => decide(current, button.dataset.label)));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !faces.length) return;
  if (event.key === "Enter" && event.target.closest("button")) return; // it is a click
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const button = classes.find((each) => each.dataset.key === key);
  if (button) after(() => decide(current, button.dataset.label));
  else if (keys[key]) after(actions[keys[key]]);
  else return;
  event.preventDefault();
});

fetch("faces")
  .then((response) => response.json())
  .then((found) => {
    faces = found;
    find("face").hidden = !faces.length;
    if (!faces.length) return (find("count").textContent = "No label is doubtful.");
    const first = faces.findIndex((each) => each.verdict === null);
    show(first < 0 ? 0 : first);
  })
  .catch(() => tell("The faces could not be loaded. Is the server still running?"));
