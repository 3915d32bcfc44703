"use strict";
// The panel above a form follows what is under way; the form itself is left alone.
(() => {
  const PAUSE = 3000;
  const PARTS = ["oc-live", "oc-recent"];
  const refresh = async () => {
    const panel = document.getElementById("oc-live");
    if (!panel || !("active" in panel.dataset)) return;
    const typed = [...panel.querySelectorAll("input[type=text]")].some((input) => input.value);
    if (!document.hidden && !typed && !panel.contains(document.activeElement)) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (answer.redirected || !answer.ok) return;
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        for (const id of PARTS) {
          const fresh = page.getElementById(id);
          if (fresh) document.getElementById(id)?.replaceWith(fresh);
        }
      } catch (error) {
        if (!(error instanceof TypeError)) throw error; // offline: try again
      }
    }
    setTimeout(refresh, PAUSE);
  };
  setTimeout(refresh, PAUSE);
})();
