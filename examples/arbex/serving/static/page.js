"use strict";

const find = (id) => document.getElementById(id);
const [drop, file, picture, camera, film, shoot, answer] = ["drop", "file", "picture", "camera", "film", "shoot", "answer"].map(find);
let current = null; // the pending request

function tell(text) {
  const line = document.createElement("p");
  line.className = "problem";
  line.textContent = text;
  answer.replaceChildren(line);
}

async function send(blob) {
  if (!blob) return tell("This is not a file: save the picture first, then upload it.");
  if (blob.size > Number(drop.dataset.mostBytes)) return tell("The file is too large.");
  current?.abort();
  const mine = (current = new AbortController());
  URL.revokeObjectURL(picture.src);
  picture.src = URL.createObjectURL(blob);
  picture.hidden = false;
  answer.setAttribute("aria-busy", "true");
  try {
    const response = await fetch("predict", { method: "POST", body: blob, signal: mine.signal });
    const text = await response.text();
    if (mine !== current) return;
    if (response.ok) answer.innerHTML = text; // from our server, which escapes all names
    else tell(text);
  } catch (error) {
    if (mine === current) tell("The server did not respond. Is it still running?");
  } finally {
    if (mine === current) answer.setAttribute("aria-busy", "false");
  }
}

file.addEventListener("change", () => file.files.length && send(file.files[0]));
picture.addEventListener("error", () => (picture.hidden = true)); // a format that the browser cannot show
document.addEventListener("paste", (event) => event.clipboardData.files.length && send(event.clipboardData.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
document.addEventListener("dragleave", () => drop.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  send(event.dataTransfer.files[0]);
});
for (const example of document.querySelectorAll(".examples button"))
  example.addEventListener("click", async () => send(await (await fetch(example.firstElementChild.src)).blob()));

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
  canvas.toBlob(send, "image/png");
  stopCamera();
});
