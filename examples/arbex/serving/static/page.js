"use strict";

const find = (id) => document.getElementById(id);
const [drop, file, camera, film, shoot, answer] = ["drop", "file", "camera", "film", "shoot", "answer"].map(find);
let current = null; // the pending batch of pictures

function line(kind, text) {
  const made = document.createElement(kind === "problem" ? "p" : kind);
  made.className = kind;
  made.textContent = text;
  return made;
}

async function predict(blob, signal) {
  if (!blob) return line("problem", "This is not a file: save the picture first, then upload it.");
  if (blob.size > Number(drop.dataset.mostBytes)) return line("problem", "The file is too large.");
  try {
    const response = await fetch("predict", { method: "POST", body: blob, signal });
    const text = await response.text();
    if (!response.ok) return line("problem", text);
    const cards = document.createElement("div");
    cards.innerHTML = text; // from our server, which escapes all names
    return cards;
  } catch (error) {
    return line("problem", "The server did not respond. Is it still running?");
  }
}

// One after another; a new batch replaces one that is not done.
async function send(blobs) {
  current?.abort();
  const mine = (current = new AbortController());
  answer.setAttribute("aria-busy", "true");
  for (const [place, blob] of blobs.entries()) {
    const section = document.createElement("section");
    if (blobs.length > 1) section.append(line("h2", `${place + 1} of ${blobs.length}: ${blob.name}`));
    section.append(await predict(blob, mine.signal));
    if (mine !== current) return;
    if (place) answer.append(section);
    else answer.replaceChildren(section);
  }
  answer.setAttribute("aria-busy", "false");
}

const tell = (text) => answer.replaceChildren(line("problem", text));

file.addEventListener("change", () => file.files.length && send([...file.files]));
document.addEventListener("paste", (event) => event.clipboardData.files.length && send([...event.clipboardData.files]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const files = [...event.dataTransfer.files];
  send(files.length ? files : [null]);
});
for (const example of document.querySelectorAll(".examples button"))
  example.addEventListener("click", async () => send([await (await fetch(example.firstElementChild.src)).blob()]));

function stopCamera() {
  for (const track of film.srcObject?.getTracks() ?? []) track.stop();
  film.srcObject = null;
  film.hidden = shoot.hidden = true;
}

camera.addEventListener("click", async () => {
  if (film.srcObject) return stopCamera();
  try {
    film.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
  } catch (error) {
    return tell("The camera cannot be used: " + error.message);
  }
  film.hidden = shoot.hidden = false;
});
shoot.addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [film.videoWidth, film.videoHeight];
  canvas.getContext("2d").drawImage(film, 0, 0);
  canvas.toBlob((blob) => send([blob]), "image/png");
  stopCamera();
});
