// Comforts only: every page works without this file.
"use strict";

// Counts characters and posts while a text is written.
for (const area of document.querySelectorAll("textarea[data-count]")) {
  const out = document.getElementById(area.dataset.count);
  const max = Number(area.dataset.max);
  const show = () => {
    const n = [...area.value.trim()].length;
    const posts = n === 0 ? 0 : n <= 500 ? 1 : Math.ceil(n / 490);
    out.textContent = n.toLocaleString("en") + " of " + max.toLocaleString("en") + " characters" +
      (posts > 1 ? " · about " + posts + " posts" : posts === 1 ? " · one post" : "");
    out.classList.toggle("bad-text", n > max);
  };
  area.addEventListener("input", show);
  show();
}

// Copies a text that is on the page.
for (const button of document.querySelectorAll("button[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const label = button.querySelector("span");
    const before = label.textContent;
    try {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      label.textContent = "Copied";
    } catch {
      label.textContent = "Select and copy by hand";
    }
    setTimeout(() => { label.textContent = before; }, 1600);
  });
}

// A form is sent once.
for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", () => {
    form.setAttribute("aria-busy", "true");
    setTimeout(() => { for (const b of form.querySelectorAll("button")) b.disabled = true; });
  });
}
addEventListener("pageshow", (e) => {
  if (e.persisted) for (const b of document.querySelectorAll("button[disabled]")) b.disabled = false;
});

// Fills a field with the sample that the page carries.
for (const button of document.querySelectorAll("button[data-fill]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const field = document.getElementById(button.dataset.fill);
    field.value = document.getElementById(button.dataset.from).textContent.trim();
    field.dispatchEvent(new Event("input"));
    field.focus();
  });
}

// Reloads a page that waits for something, as soon as it has come.
const live = document.querySelector("[data-live]");
if (live && window.EventSource) {
  const source = new EventSource(live.dataset.live);
  source.addEventListener("changed", () => { source.close(); location.reload(); });
}
