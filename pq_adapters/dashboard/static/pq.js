// What the pages do beyond links and forms. Everything here is an addition: without it the pages can be read, and forms work.
"use strict";

(() => {
  const root = document.documentElement;

  // --- times: relative ones go on, absolute ones are the visitor's own
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  // Sweden writes 2030-01-31 08:00, as the server does.
  const exact = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  const brief = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });

  function rough(seconds) {
    for (const [size, word] of [[31536000, "y"], [86400, "d"], [3600, "h"], [60, "min"]]) {
      if (seconds >= size) return `${Math.floor(seconds / size)} ${word}`;
    }
    return `${Math.max(Math.floor(seconds), 1)} s`;
  }

  function tell(within) {
    for (const node of within.querySelectorAll("time[datetime]")) {
      const at = new Date(node.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      if (!node.title || node.dataset.titled) {
        node.title = `${exact.format(at)} (${zone})\n${node.dateTime.replace("T", " ").slice(0, 19)} UTC`;
        node.dataset.titled = "1";
      }
      const apart = (Date.now() - at.getTime()) / 1000;
      if (node.dataset.as === "relative") {
        node.textContent = Math.abs(apart) < 1 ? "now" : apart > 0 ? `${rough(apart)} ago` : `in ${rough(-apart)}`;
      } else if (node.dataset.as === "elapsed") {
        node.textContent = rough(Math.max(apart, 0));
      } else if (node.dataset.as === "local") {
        node.textContent = brief.format(at);
      }
    }
    for (const node of within.querySelectorAll("[data-zone]")) node.textContent = zone;
  }
  tell(document);
  setInterval(() => { if (!document.hidden) tell(document); }, 1000);

  // --- the menu on a phone: the present page is in sight
  const here = document.querySelector(".nav a[aria-current]");
  if (here && here.parentElement.scrollWidth > here.parentElement.clientWidth) here.scrollIntoView({ inline: "center", block: "nearest" });

  const chosen = document.querySelector(".states a[aria-current]");
  if (chosen) chosen.parentElement.scrollLeft = chosen.offsetLeft - 60;

  // --- theme
  function dark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }
  for (const button of document.querySelectorAll("[data-toggle-theme]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("pq-theme", root.dataset.theme); } catch { /* forgotten with the page */ }
    });
  }

  // --- live parts: the server sends the HTML of a part under its name
  const watched = [...document.querySelectorAll("[data-live]")];
  const stream = document.querySelector("[data-stream]");
  if (watched.length && stream) {
    let source = null;
    let on = false;
    const mark = () => {
      for (const node of document.querySelectorAll(".live")) {
        node.classList.toggle("on", on);
        node.textContent = on ? "Live" : "Connecting";
      }
    };
    const show = (now) => { on = now; mark(); };
    document.addEventListener("htmx:afterSettle", mark);
    const open = () => {
      if (source) return;
      source = new EventSource(stream.dataset.stream);
      source.addEventListener("open", () => show(true));
      source.addEventListener("error", () => {
        show(false);
        // Refused for good (logged out, say): the browser does not try again by itself.
        if (source && source.readyState === EventSource.CLOSED) { close(); setTimeout(open, 5000); }
      });
      source.addEventListener("part", (event) => {
        const { name, html } = JSON.parse(event.data);
        for (const node of document.querySelectorAll(`[data-live="${CSS.escape(name)}"]`)) {
          // What somebody is just using is left alone.
          if (node.contains(document.activeElement) || node.querySelector("details[open]")) continue;
          if (node.innerHTML !== html) { node.innerHTML = html; htmx.process(node); tell(node); }
        }
      });
      source.addEventListener("reload", (event) => {
        const target = document.querySelector(JSON.parse(event.data));
        if (target) htmx.ajax("GET", location.href, { target: "#main", select: "#main", swap: "outerHTML" });
      });
    };
    const close = () => { if (source) source.close(); source = null; };
    // A page that nobody sees costs nothing.
    document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
    addEventListener("pagehide", close);
    addEventListener("pageshow", () => { if (!document.hidden) open(); });
    if (!document.hidden) open();
  }

  // --- lists that go on: the part is asked for again, unless somebody uses it just now
  const renewed = document.querySelector("[data-refresh]");
  const switches = [...document.querySelectorAll("[data-refreshing]")];
  if (renewed) {
    let on = true;
    try { on = localStorage.getItem("pq-refresh") !== "off"; } catch { /* on */ }
    const mark = () => {
      for (const node of switches) { node.hidden = false; node.setAttribute("aria-pressed", String(on)); node.classList.toggle("on", on); node.textContent = on ? "Live" : "Not live"; }
    };
    for (const node of switches) node.addEventListener("click", () => {
      on = !on;
      try { localStorage.setItem("pq-refresh", on ? "on" : "off"); } catch { /* forgotten with the page */ }
      mark();
    });
    mark();
    const id = renewed.id;
    setInterval(() => {
      const part = document.getElementById(id);
      if (!on || document.hidden || !part || part.dataset.refresh === undefined) return;
      const used = part.contains(document.activeElement) || part.querySelector("input:checked, details[open], :hover:is(button, a, input)");
      if (used || String(getSelection())) return;
      htmx.ajax("GET", location.href, { target: `#${id}`, select: `#${id}`, swap: "outerHTML" });
    }, Number(renewed.dataset.refresh) * 1000);
  }

  // --- lists: pick rows
  function picked(form) {
    const boxes = [...form.querySelectorAll("input[name=ids]")];
    const chosen = boxes.filter((box) => box.checked);
    for (const box of boxes) box.closest("tr").classList.toggle("picked", box.checked);
    for (const all of form.querySelectorAll("[data-pick-all]")) { all.checked = boxes.length > 0 && chosen.length === boxes.length; all.indeterminate = chosen.length > 0 && !all.checked; }
    for (const node of form.querySelectorAll("[data-scope]")) {
      node.textContent = chosen.length ? `${chosen.length} selected` : node.dataset.scope;
    }
  }
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-picks]");
    if (!form) return;
    if (event.target.matches("[data-pick-all]")) {
      for (const box of form.querySelectorAll("input[name=ids]")) box.checked = event.target.checked;
    }
    picked(form);
  });

  // --- small things
  document.addEventListener("click", async (event) => {
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      const source = document.querySelector(copy.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        copy.querySelector("[data-said]").textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
      }
    }
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("submit", (event) => {
    // Twice is once: the button rests until the answer is there.
    const button = event.submitter;
    if (button && event.target.method === "post" && !event.defaultPrevented) setTimeout(() => { button.disabled = true; });
  });
  addEventListener("pageshow", () => { for (const button of document.querySelectorAll("button:disabled")) button.disabled = false; });

  // --- a schedule's form: what belongs to the other rhythm is put away
  function rhythm(form) {
    const kind = form.querySelector("input[name=rhythm]:checked");
    for (const part of form.querySelectorAll("[data-rhythm]")) part.hidden = kind !== null && !part.dataset.rhythm.split(" ").includes(kind.value);
  }
  for (const form of document.querySelectorAll("form[data-schedule]")) {
    rhythm(form);
    form.addEventListener("change", () => rhythm(form));
    const field = form.querySelector("input[name=timezone]");
    if (field && field.dataset.suggest !== undefined && !field.value) field.value = zone;
  }

  // --- keys: "/" searches, "g" and a letter goes to a page, Escape closes
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") {
      for (const menu of document.querySelectorAll("details.menu[open]")) { menu.open = false; menu.querySelector("summary").focus(); }
      return;
    }
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    if (event.key === "/") {
      const search = [...document.querySelectorAll("[data-search]")].find((node) => node.offsetParent !== null);
      if (search) { event.preventDefault(); search.focus(); search.select(); }
    } else if (going) {
      going = false;
      const link = document.querySelector(`.nav a[data-key="${CSS.escape(event.key)}"]`);
      if (link) link.click();
    } else if (event.key === "g") {
      going = true;
      setTimeout(() => { going = false; }, 1200);
    }
  });

  // A page that renews itself is left as it is while the server has trouble: the next change renews it.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr.status >= 500 && !event.detail.requestConfig.triggeringEvent) event.detail.shouldSwap = false;
  });

  document.addEventListener("htmx:afterSwap", (event) => {
    tell(document);
    const form = event.target.closest && event.target.closest("form[data-picks]");
    if (form) picked(form);
  });
})();
