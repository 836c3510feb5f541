const rootPath = document.body.dataset.rootPath;
const maxImageBytes = Number(document.body.dataset.maxImageBytes);
const drop = document.getElementById("drop");
const fileInput = document.getElementById("file");
const preview = document.getElementById("preview");
const invitation = document.getElementById("invitation");
const k = document.getElementById("k");
const key = document.getElementById("key"); // null where searching needs none
const status = document.getElementById("status");
const hits = document.getElementById("hits");

const KEPT_KEY = "akin-key";
const REFUSALS = {
  "missing-key": "Searching needs a key: enter one that has the scope search.",
  "invalid-key": "This key is not known here: look for a typing error, or ask for another.",
  "expired-key": "This key has expired: ask for another.",
  "revoked-key": "This key was revoked: ask for another.",
  "insufficient-scope": "This key is good, but not for searching: ask for one that has the scope search.",
};

let image = null;
let latest = 0; // an answer to an earlier search must not replace a later one

function say(text, isError = false) {
  status.textContent = text;
  status.classList.toggle("error", isError);
}

function choose(file) {
  if (!file) return;
  image = file;
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.src = URL.createObjectURL(file);
  preview.alt = `Your image: ${file.name}`;
  preview.hidden = false;
  invitation.hidden = true;
  search();
}

// Some formats that Akin reads (TIFF) are shown by few browsers.
preview.addEventListener("error", () => {
  preview.hidden = true;
  invitation.hidden = false;
  invitation.textContent = image.name;
});

async function search() {
  if (!image || !k.reportValidity()) return;
  hits.replaceChildren();
  if (image.size > maxImageBytes) {
    say(`The image has ${image.size.toLocaleString()} bytes; at most ${maxImageBytes.toLocaleString()} are allowed.`, true);
    return;
  }
  const number = ++latest;
  const given = key ? key.value.trim() : "";
  if (key && !given) {
    say(REFUSALS["missing-key"], true);
    key.focus();
    return;
  }
  // What no header can carry is no key.
  if (!/^[\x21-\x7e]*$/.test(given)) {
    say(REFUSALS["invalid-key"], true);
    return;
  }
  say("Searching …");
  try {
    const form = new FormData();
    form.append("image", image);
    const headers = given ? { "X-API-Key": given } : {};
    const response = await fetch(`${rootPath}/search?k=${k.value}`, { method: "POST", body: form, headers });
    const answer = await response.json();
    if (number !== latest) return;
    if (!response.ok) {
      say(REFUSALS[answer.code] ?? answer.detail ?? `The server answered ${response.status}.`, true);
      if (answer.code in REFUSALS) key?.focus();
      return;
    }
    hits.replaceChildren(...answer.hits.map(card));
    say(`${answer.hits.length} products in ${answer.timing.total.toFixed(0)} ms (release ${answer.release_id})`);
  } catch (error) {
    if (number === latest) say(`The server cannot be reached: ${error.message}`, true);
  }
}

function card(hit) {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.src = hit.image_url;
  image.alt = hit.title;
  image.loading = "lazy";
  const text = document.createElement("div");
  text.append(element("h2", hit.title), element("p", `${hit.score.toFixed(3)} cosine`, "score"));
  const attributes = Object.entries(hit.attributes).map(([name, value]) =>
    `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`);
  if (attributes.length) text.append(element("p", attributes.join(", ")));
  item.append(image, text);
  return item;
}

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

fileInput.addEventListener("change", () => choose(fileInput.files[0]));
k.addEventListener("change", search);
if (key) {
  key.value = sessionStorage.getItem(KEPT_KEY) ?? "";
  key.addEventListener("change", () => {
    sessionStorage.setItem(KEPT_KEY, key.value.trim());
    search();
  });
}
document.getElementById("search").addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault(); // or the browser would leave the page for the image
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
