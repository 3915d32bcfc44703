"use strict";
// Follows a deployment: asks for what is new once a second, slower in a hidden tab or when the portal doesn't answer.
(() => {
  const root = document.querySelector("[data-live]");
  if (!root) return;
  const PAUSE = 1000, HIDDEN_PAUSE = 10000, LONGEST_PAUSE = 30000;
  let offset = Number(root.dataset.offset), status = "", failures = 0, timer = 0, ended = false;
  const part = (name) => document.getElementById(`oc-${name}`);
  const shown = {};
  const inUse = (place) => place.contains(document.activeElement)
    || (!getSelection().isCollapsed && place.contains(getSelection().anchorNode));
  const put = (name, html, final) => {
    const place = part(name);
    if (shown[name] === html || (inUse(place) && !final)) return;
    shown[name] = html;
    place.innerHTML = html;
  };
  const atEnd = (log) => log.scrollTop + log.clientHeight >= log.scrollHeight - 12;
  // The log of the step under way is what is read; those before it fold, unless somebody is in them.
  const foldBefore = (last) => {
    for (const log of document.querySelectorAll("details.oc-log:not([hidden])")) {
      if (log !== last && !log.dataset.kept && !inUse(log)) log.open = false;
    }
  };
  const append = ({ step, html }) => {
    const log = document.querySelector(`[data-step="${step}"]`);
    const follow = atEnd(log);
    log.insertAdjacentHTML("beforeend", html);
    if (log.parentElement.hidden) {
      log.parentElement.hidden = false;
      foldBefore(log.parentElement);
    }
    if (follow) log.scrollTop = log.scrollHeight;
  };
  const say = (text) => { const place = part("connection"); place.textContent = text; place.hidden = !text; };
  const plan = (pause) => { clearTimeout(timer); timer = setTimeout(ask, pause); };
  const end = () => { ended = true; clearTimeout(timer); };
  const ask = async () => {
    let news;
    try {
      const answer = await fetch(`${root.dataset.live}?after=${offset}`, { headers: { Accept: "application/json" } });
      if (answer.redirected || answer.status === 403) { end(); say("You are not logged in any more. Load the page again."); return; }
      if (!answer.ok) throw new TypeError(`status ${answer.status}`);
      news = await answer.json();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      failures += 1;
      say("The portal does not answer; trying again.");
      plan(Math.min(PAUSE * 2 ** failures, LONGEST_PAUSE));
      return;
    }
    failures = 0;
    say("");
    offset = news.offset;
    news.log.forEach(append);
    const changed = news.status !== status;
    put("head", news.head, changed);
    put("steps", news.steps, changed);
    if (news.status !== "queued") document.querySelector(".messagelist")?.remove(); // “… is queued”
    if (changed) {
      put("controls", news.controls, true);
      part("status").textContent = news.status_words;
    }
    // The last lines of the log may be written just after the end: once more when it has come.
    if (news.final && !changed && !news.more) { end(); return; }
    status = news.status;
    plan(news.more ? 0 : document.hidden ? HIDDEN_PAUSE : PAUSE);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !ended) plan(0); });
  for (const log of document.querySelectorAll("[data-step]")) log.scrollTop = log.scrollHeight;
  for (const log of document.querySelectorAll("details.oc-log")) {
    log.querySelector("summary").addEventListener("click", () => { log.dataset.kept = "yes"; });
  }
  foldBefore([...document.querySelectorAll("details.oc-log:not([hidden])")].at(-1));
  plan(PAUSE);
})();
