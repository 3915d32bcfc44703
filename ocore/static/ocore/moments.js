"use strict";
// Keeps “3 min ago” true while a page stays open. The words are those of ocore/show.py.
(() => {
  const rough = (seconds) => seconds < 60 ? `${Math.round(seconds)} s`
    : seconds < 3600 ? `${Math.round(seconds / 60)} min`
    : seconds < 48 * 3600 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
  setInterval(() => {
    if (document.hidden) return;
    for (const time of document.querySelectorAll("time[datetime]")) {
      if (!/ ago$|^just now$/.test(time.textContent)) continue;
      const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
      if (seconds >= 5 && seconds < 30 * 86400) time.textContent = `${rough(seconds)} ago`;
    }
  }, 20000);
})();
