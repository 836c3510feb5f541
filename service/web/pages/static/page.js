const rootPath = document.body.dataset.rootPath;
const maxImageBytes = Number(document.body.dataset.maxImageBytes);
const drop = document.getElementById("drop");
const fileInput = document.getElementById("file");
const preview = document.getElementById("preview");
const invitation = document.getElementById("invitation");
const k = document.getElementById("k");
const key = document.getElementById("key"); // null if searching needs no key
const status = document.getElementById("status");
const hits = document.getElementById("hits");

const KEPT_KEY = "akin-key";
const REFUSALS = {
  "missing-key": "Searching needs a key: enter one that has the scope search.",
  "invalid-key": "This key is unknown: check it for typing errors, or ask for another one.",
  "expired-key": "This key has expired: ask for another one.",
  "revoked-key": "This key was revoked: ask for another one.",
  "insufficient-scope": "This key is valid, but not for searching: ask for one that has the scope search.",
};

let image = null;
let latest = 0; // number of the latest search; responses to earlier ones are dropped

function showStatus(text, isError = false) {
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

// Few browsers display TIFF, which Akin reads.
preview.addEventListener("error", () => {
  preview.hidden = true;
  invitation.hidden = false;
  invitation.textContent = image.name;
});

async function search() {
  if (!image || !k.reportValidity()) return;
  hits.replaceChildren();
  if (image.size > maxImageBytes) {
    showStatus(`The image has ${image.size.toLocaleString()} bytes; at most ${maxImageBytes.toLocaleString()} are allowed.`, true);
    return;
  }
  const number = ++latest;
  const enteredKey = key ? key.value.trim() : "";
  if (key && !enteredKey) {
    showStatus(REFUSALS["missing-key"], true);
    key.focus();
    return;
  }
  // A key contains printable ASCII only.
  if (!/^[\x21-\x7e]*$/.test(enteredKey)) {
    showStatus(REFUSALS["invalid-key"], true);
    return;
  }
  showStatus("Searching …");
  try {
    const form = new FormData();
    form.append("image", image);
    const headers = enteredKey ? { "X-API-Key": enteredKey } : {};
    const response = await fetch(`${rootPath}/search?k=${k.value}`, { method: "POST", body: form, headers });
    const body = await response.json();
    if (number !== latest) return;
    if (!response.ok) {
      showStatus(REFUSALS[body.code] ?? body.detail ?? `The server answered ${response.status}.`, true);
      if (body.code in REFUSALS) key?.focus();
      return;
    }
    hits.replaceChildren(...body.hits.map(card));
    showStatus(`${body.hits.length} products in ${body.timing.total.toFixed(0)} ms (release ${body.release_id})`);
  } catch (error) {
    if (number === latest) showStatus(`The server cannot be reached: ${error.message}`, true);
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
  const created = document.createElement(name);
  created.textContent = text;
  created.className = className;
  return created;
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
    event.preventDefault(); // otherwise the browser would navigate to the image
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => choose(event.clipboardData.files[0]));
