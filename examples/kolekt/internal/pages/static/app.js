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

// A form is sent once. Forms may come later, so the document listens.
document.addEventListener("submit", (e) => {
  const form = e.target;
  if (form.method !== "post") return;
  form.setAttribute("aria-busy", "true");
  setTimeout(() => { for (const b of form.querySelectorAll("button")) b.disabled = true; });
});
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

// Shows the page behind a link above this one. Any trouble, and the link is
// followed as always.
for (const link of document.querySelectorAll("a[data-dialog]")) {
  link.addEventListener("click", async (e) => {
    if (e.metaKey || e.ctrlKey || e.shiftKey || !window.HTMLDialogElement) return;
    e.preventDefault();
    link.setAttribute("aria-busy", "true");
    try {
      const answer = await fetch(link.href);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const body = page.querySelector("[data-dialog-body]");
      if (!answer.ok || !body) throw new Error("no dialog");
      const dialog = document.createElement("dialog");
      body.classList.remove("narrow", "card");
      dialog.append(body);
      dialog.setAttribute("aria-label", body.querySelector("h1").textContent);
      dialog.addEventListener("click", (c) => {
        if (c.target === dialog || c.target.closest("[data-dialog-close]")) { c.preventDefault(); dialog.close(); }
      });
      dialog.addEventListener("close", () => { dialog.remove(); link.focus(); });
      document.body.append(dialog);
      dialog.showModal();
    } catch {
      location.assign(link.href);
    } finally {
      link.removeAttribute("aria-busy");
    }
  });
}

// Keeps an open page up to date: the server sends the parts that have changed,
// ready made. A part in which somebody is at work waits.
const live = document.querySelector("[data-live]");
if (live && window.EventSource) {
  const waiting = new Map();
  const put = (id, html) => {
    const old = document.getElementById(id), t = document.createElement("template");
    t.innerHTML = html;
    const fresh = t.content.firstElementChild;
    if (!old || !fresh || old.isEqualNode(fresh)) return;
    if (old.matches(":active")) { setTimeout(put, 300, id, html); return; } // a button is held down
    if (old.contains(document.activeElement)) {
      if (!waiting.has(id)) old.addEventListener("focusout", () => setTimeout(() => { const h = waiting.get(id); waiting.delete(id); put(id, h); }), { once: true });
      waiting.set(id, html);
      return;
    }
    old.replaceWith(fresh);
  };
  let source = null;
  const open = () => {
    source = new EventSource(live.dataset.live);
    source.addEventListener("part", (e) => { const p = JSON.parse(e.data); put(p.id, p.html); });
    source.addEventListener("reload", () => { close(); location.reload(); });
    source.addEventListener("error", () => {
      // Refused, and not only broken off: once more, later.
      if (source && source.readyState === EventSource.CLOSED) { source = null; setTimeout(look, 30000); }
    });
  };
  const close = () => { if (source) source.close(); source = null; };
  // A page that nobody sees holds no stream.
  const look = () => { if (document.hidden) close(); else if (!source) open(); };
  document.addEventListener("visibilitychange", look);
  addEventListener("pagehide", close);
  addEventListener("pageshow", look);
}
