"""``python -m benchmarks.explore RUN``: the page of ``vhcr explore`` as a person waits for it.

Time to first paint, frames a second while many invented points are panned, and how long a reply takes for one
user and for several at once. Needs Chromium and playwright; it draws without a graphics processor.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.measure import Part

POINTS = (1_000, 10_000, 100_000)
USERS = (1, 8)
PAN = """([count, seconds]) => new Promise((done) => {
  const map = window.vhcr.map, uniform = () => 1 - Math.random();
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(6.2832 * uniform());
  const places = [...Array(count).keys()];
  map.setPoints(places.map((i) => (i % 12) * 1.5 + normal()), places.map((i) => (i % 5) * 2 + normal()));
  for (const i of places) map.colours[i] = (i % 12) * 0x150f0b + 0x203040;
  const box = map.canvas.getBoundingClientRect();
  const mouse = { pointerId: 9, pointerType: "mouse", clientY: box.top + 200 };
  const at = (type, x) =>
    map.canvas.dispatchEvent(new PointerEvent(type, { ...mouse, clientX: box.left + x }));
  map.canvas.setPointerCapture = () => {};
  let drawing = 0, from = 0, first = 0;
  const draw = map.draw.bind(map);
  map.draw = () => { const begun = performance.now(); draw(); drawing += performance.now() - begun; };
  const step = (now) => {
    if (!from) { from = now; first = map.frames; drawing = 0; }
    if (now - from > seconds * 1000) {
      at("pointerup", 300); delete map.draw;
      const frames = map.frames - first;
      done([frames / (now - from) * 1000, drawing / frames]);
      return;
    }
    at("pointermove", 300 + 100 * Math.sin((now - from) / 300));
    requestAnimationFrame(step);
  };
  at("pointerdown", 300);
  setTimeout(() => requestAnimationFrame(step), 500);
})"""


def page(part: Part, address: str, seconds: float) -> None:
    """First paint, the map, and frames a second, in a headless Chromium."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        part.settings["browser"] = f"Chromium {browser.version}, headless, drawing in software"
        opened = browser.new_page(viewport={"width": 1500, "height": 900})
        for _ in range(2):  # the second time the server has computed the map
            begun = time.perf_counter()
            opened.goto(address)
            opened.wait_for_selector("body[data-ready]")
            ready = time.perf_counter() - begun
        paint = opened.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        part.add("first paint", paint / 1000, "s")
        part.add("the map", ready, "s")
        for count in POINTS:
            rate, drawing = opened.evaluate(PAN, [count, seconds])
            part.add(f"panning {count:,} points", rate, "frames/s", note=f"{drawing:.1f} ms to draw one")
        browser.close()


def replies(part: Part, address: str, said: str, each: int) -> None:
    """How long until a reply is whole; every user asks again as soon as it is."""
    site = address.split("/", 3)
    origin = "/".join(site[:3])
    with httpx.Client(base_url=address, timeout=600, trust_env=False, headers={"Origin": origin}) as client:
        dials = {**client.get("about").raise_for_status().json()["dials"], "strategy": "greedy"}

        def user(number: int) -> list[float]:
            taken = []
            for turn in range(each):
                asked = {"run": 0, "context": [said], "dials": {**dials, "seed": number * each + turn}}
                begun = time.perf_counter()
                answer = client.post("talk", json=asked).raise_for_status()
                taken.append(time.perf_counter() - begun)
                assert "done" in json.loads(answer.text.splitlines()[-1]), answer.text
            return taken

        user(0)
        for users in USERS:
            with ThreadPoolExecutor(users) as pool:
                taken = np.array([value for found in pool.map(user, range(users)) for value in found])
            middle, late = np.percentile(taken, [50, 95])
            part.add(f"a reply, {users} at once", 1000 * middle, "ms", note=f"p95 {1000 * late:.0f} ms")


def main(argv: Sequence[str] | None = None) -> None:
    """Start the page of a run, measure, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.explore")
    parser.add_argument("run", help="a trained run, as vhcr explore takes it")
    parser.add_argument("--seconds", type=float, default=5.0, help="panning (default: 5)")
    parser.add_argument("--replies", type=int, default=40, help="of each user (default: 40)")
    parser.add_argument("--said", default="hello", help="what is replied to")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the JSON")
    arguments = parser.parse_args(argv)
    command = [sys.executable, "-m", "vhcr.cli", "explore", arguments.run, "--port", "0"]
    settings: dict[str, Any] = {"run": arguments.run, "replies": arguments.replies}
    part = Part("explore", settings)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            if not re.match("http://", address):
                sys.exit(server.wait())
            httpx.get(address, trust_env=False).raise_for_status()  # it listens before it answers
            page(part, address, arguments.seconds)
            replies(part, address, arguments.said, arguments.replies)
        finally:
            server.terminate()
    for figure in part.figures:
        print(f"{figure.what:28} {figure.value:8.3g} {figure.unit:10} {figure.note}")
    print(part.write(arguments.out))


if __name__ == "__main__":
    main()
