"""The map in headless Chromium with software GL: first paint and redraw, beside two peers.

    python -m benchmarks.explorer_drawing STORE MODEL [--peers FOLDER]

FOLDER holds the unpacked wheels of plotly and pyvis, whose JavaScript draws the same positions. The
page of modelkin is timed from the start of the navigation, layout on the server included; peers get
positions ready-made and physics off, and are timed from the start of their page.
"""

from __future__ import annotations

import argparse
import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np

from benchmarks.explorer_load import served

PANS = 5
PATIENCE = 90

_PLOTLY = """<!doctype html><div id=a style="width:1100px;height:620px"></div>
<script src="plotly.min.js"></script><script>
fetch("map.json").then(r => r.json()).then(async m => {
 const ex = [], ey = [];
 for (let i = 1; i < m.x.length; i++) {
  ex.push(m.x[m.under[i]], m.x[i], null);
  ey.push(m.y[m.under[i]], m.y[i], null);
 }
 const edges = {x: ex, y: ey, mode: "lines", type: "scattergl"};
 const nodes = {x: m.x, y: m.y, mode: "markers", type: "scattergl", marker: {size: 3}};
 await Plotly.newPlot("a", [edges, nodes]);
 window.pan = k => Plotly.relayout("a", {"xaxis.range": [-1 + k, 1 + k]});
 requestAnimationFrame(() => { window.first = performance.now(); });
});</script>"""

_VIS = """<!doctype html><div id=a style="width:1100px;height:620px"></div>
<script src="vis-network.min.js"></script><script>
fetch("map.json").then(r => r.json()).then(m => {
 const nodes = m.x.map((x, id) => ({id, x: x * 3000, y: m.y[id] * 3000, shape: "dot", size: 4}));
 const edges = m.under.slice(1).map((p, i) => ({from: p, to: i + 1}));
 const options = {physics: false, interaction: {hover: false}, edges: {smooth: false}};
 const net = new vis.Network(document.getElementById("a"), {nodes, edges}, options);
 net.once("afterDrawing", () => { window.first = performance.now(); });
 window.pan = async k => { net.moveTo({position: {x: k * 300, y: 0}}); net.redraw(); };
});</script>"""

# A draw call only queues the work: reading one pixel back waits until it is done.
_DONE = """
for (const canvas of document.querySelectorAll("canvas")) {
 const gl = canvas.getContext("webgl2") || canvas.getContext("webgl");
 if (gl) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
 else canvas.getContext("2d").getImageData(0, 0, 1, 1);
}
"""
_SYNC = f"const t = performance.now(); {_DONE} return performance.now() - t;"
_PAN = f"""
const [k, done] = arguments, t = performance.now();
Promise.resolve(window.pan(k)).then(() => {{ {_DONE} done(performance.now() - t); }});
"""


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium, with software GL."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
        "--window-size=1200,900",
    ):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(driver: Any, script: str) -> float | None:
    """The number that a script gives at last, None after a minute and a half."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        found = driver.execute_script(script)
        if found is not None:
            return float(found)
        time.sleep(0.05)
    return None


def draw(driver: Any, address: str, *, ready: str, pan: str = "") -> tuple[float, float] | None:
    """Milliseconds to the first paint, and of the median redraw after a pan.

    Parameters
    ----------
    ready : a script that gives the time of the first paint once it was.
    pan : a script that defines `window.pan`, where the page does not.
    """
    driver.get(address)
    first = wait_for(driver, ready)
    if first is None:
        return None
    first += driver.execute_script(_SYNC)
    driver.execute_script(pan)
    pans = [driver.execute_async_script(_PAN, 0.02 * k) for k in range(PANS)]
    return first, float(np.median(pans))


def tell(name: str, found: tuple[float, float] | None) -> None:
    """Print one line."""
    if found is None:
        print(f"{name}: no first paint within {PATIENCE} s")
    else:
        print(f"{name}: first paint {found[0]:.0f} ms, redraw {found[1]:.0f} ms")


@contextmanager
def peer_pages(peers: Path, address: str, model: str) -> Iterator[str]:
    """Pages that draw the same map with plotly and vis-network, on a port of their own."""
    with urlopen(f"{address}/map/layout?model={quote(model, safe='')}") as reply:
        content = reply.read()
    n = int(np.frombuffer(content[:4], "<u4")[0])
    x, y = (np.frombuffer(content[4 + 4 * n * i : 4 + 4 * n * (i + 1)], "<f4") for i in (0, 1))
    under = np.frombuffer(content[4 + 8 * n : 4 + 12 * n], "<u4")
    with TemporaryDirectory() as folder:
        home = Path(folder)
        drawing = {"x": x.tolist(), "y": y.tolist(), "under": under.tolist()}
        (home / "map.json").write_text(json.dumps(drawing), encoding="utf-8")
        (home / "plotly.html").write_text(_PLOTLY, encoding="utf-8")
        (home / "vis.html").write_text(_VIS, encoding="utf-8")
        for name in ("plotly.min.js", "vis-network.min.js"):
            (home / name).write_bytes(next(peers.rglob(name)).read_bytes())
        handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def main() -> None:
    """Print one line a renderer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("model")
    parser.add_argument("--peers", type=Path)
    given = parser.parse_args()
    with served(given.store) as (address, _):
        page = f"{address}/map?model={quote(given.model, safe='')}"
        ready = "const m = document.getElementById('map'); return m && m.dataset.ready || null"
        pan = "window.pan = k => { modelkinMap.view.x = k; modelkinMap.redraw(); }"
        for name in ("modelkin, cold", "modelkin, layout cached"):
            with browser() as driver:
                tell(name, draw(driver, page, ready=ready, pan=pan))
        if given.peers is None:
            return
        with peer_pages(given.peers, address, given.model) as pages:
            for name in ("plotly", "vis"):
                with browser() as driver:
                    ready = "return window.first || null"
                    tell(name, draw(driver, f"{pages}/{name}.html", ready=ready))


if __name__ == "__main__":
    main()
