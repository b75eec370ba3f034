"use strict";
// Everything here can be done without it: links reload the page, forms have buttons.

document.addEventListener("click", async (event) => {
  const copy = event.target.closest("button.copy");
  if (copy) {
    const text = copy.closest("details").querySelector("code").textContent;
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { copy.textContent = "Select it by hand"; }
    return;
  }
  const png = event.target.closest("button.png");
  if (png) { save(png.closest("figure").querySelector("svg"), png.dataset.name + ".png"); return; }
  const link = event.target.closest("#tree a.knob, #tree .left a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  await showTree(link.href, true);
});

async function showTree(address, push) {
  const tree = document.getElementById("tree");
  const places = [...tree.querySelectorAll("a.knob, .left a")];
  const at = places.indexOf(document.activeElement);
  let page;
  try {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error();
    page = new DOMParser().parseFromString(await answer.text(), "text/html");
  } catch { location.href = address; return; }
  for (const part of ["#tree", ".twins"]) {
    const fresh = page.querySelector(part), old = document.querySelector(part);
    if (fresh && old) old.replaceWith(document.adoptNode(fresh));
  }
  if (push) history.pushState({ tree: true }, "", address);
  reveal();
  const again = document.querySelectorAll("#tree a.knob, #tree .left a");
  if (at >= 0 && again.length) again[Math.min(at, again.length - 1)].focus();
}

addEventListener("popstate", () => { if (document.getElementById("tree")) showTree(location.href, false); });

// In the SQL field, Ctrl+Enter runs the query.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "query") event.target.form.submit();
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) {
    const find = document.getElementById("find");
    if (find) { event.preventDefault(); find.focus(); }
  }
});

// A plot as the page shows it, at twice the size, on the paper of the page.
function save(svg, name) {
  const style = getComputedStyle(document.body), box = svg.viewBox.baseVal, copy = svg.cloneNode(true);
  copy.setAttribute("color", style.color);
  copy.setAttribute("width", 2 * box.width); copy.setAttribute("height", 2 * box.height);
  const address = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
  const picture = new Image();
  picture.onload = () => {
    const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
    canvas.width = 2 * box.width; canvas.height = 2 * box.height;
    pen.fillStyle = style.backgroundColor; pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(picture, 0, 0);
    URL.revokeObjectURL(address);
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob); link.download = name; link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  };
  picture.src = address;
}

function reveal() { for (const one of document.querySelectorAll("button.copy, button.png")) one.hidden = false; }
reveal();
