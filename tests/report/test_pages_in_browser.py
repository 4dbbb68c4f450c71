"""Report and gallery as people use them, in a real browser; skipped where there is none."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from report.gallery_folder import EVIL, HASH, IDS, SCRIPT, write, write_study
from report.test_report import write_results

from utils.report.gallery import write_gallery
from utils.report.gallery_data import read_scores
from utils.report.report import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        # The sandbox needs rights that containers do not have; the pages are our own.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A page that fails the test for any error, and for any address outside the folder."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(5000)
    wrong = []
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or wrong.append(r.url))
    yield page
    hacked = page.evaluate("window.hacked")
    context.close()
    assert wrong == []
    assert hacked is None


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Report and gallery of one study; to be read."""
    folder = tmp_path_factory.mktemp("study")
    write_results(folder)
    for table in ("splits", "training", "test_loss", "ig"):
        for file in folder.glob(f"{table}*.csv"):
            file.unlink()
    write_study(folder)
    write_report(folder)
    return folder


def names(page):
    return [
        Path(title).name for title in page.locator("a.tile").evaluate_all("all => all.map(one => one.title)")
    ]


def test_the_gallery_searches_sorts_opens_and_lets_nothing_in(page, study):
    page.goto((study / "gallery.html").as_uri())
    assert page.locator("#count").text_content() == "9 images"
    assert names(page) == [Path(name).name for name in IDS]  # by memorability, the highest first
    page.click("#direction")
    assert names(page) == [Path(name).name for name in reversed(IDS)]
    page.select_option("#sort", "mse")
    assert names(page) == [Path(name).name for name in IDS]  # now the lowest mse first
    page.fill("#query", "CAT_ mse<0.05")
    assert page.locator("#count").text_content() == "3 of 9 images"
    page.fill("#query", "split:test")
    assert page.locator("a.tile").count() == 3
    page.fill("#query", "no such image")
    assert page.locator("a.tile").count() == 0
    page.click("#clear")
    page.select_option("#category", "food")
    assert {name.split("/")[0] for name in IDS if Path(name).name in names(page)} == {"food"}
    page.select_option("#category", "")
    for evil in (EVIL, SCRIPT, HASH):
        page.locator("a.tile").nth(IDS.index(evil)).click()
        assert page.locator("#panel-title").text_content() == evil
        assert (
            page.locator("#panel .pictures figure").count() >= 3
        )  # image, reconstruction, nearest neighbour
        page.keyboard.press("Escape")
        assert not page.locator("#panel").is_visible()


def test_the_panel_shows_pictures_places_and_neighbours_and_obeys_the_keys(page, study):
    page.goto(
        (study / "gallery.html").as_uri() + f"#sort=name&descending=false&image={IDS[0].replace('#', '%23')}"
    )
    panel = page.locator("#panel")
    assert page.locator("#panel-title").text_content() == IDS[0]
    page.wait_for_function("[...document.querySelectorAll('#panel img')].every(one => one.naturalWidth > 0)")
    assert panel.locator("img.map").count() == 1  # a test image
    mse = panel.locator(".score", has_text="mse")
    assert mse.locator(".number").text_content() == "0.010"
    assert mse.locator(".place").text_content() == "6 %"  # the lowest of nine, itself counted half
    memorability = panel.locator(".score", has_text="memorability").first
    assert memorability.locator(".place").text_content() == "94 %"
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-title").text_content() == IDS[1]
    assert panel.locator("img.map").count() == 0
    for key, place in (
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("ArrowRight", 1),
    ):
        page.keyboard.press(key)
        assert page.locator("#panel-title").text_content() == IDS[place]
    panel.locator("figure a").last.click()  # its nearest neighbour
    assert page.locator("#panel-title").text_content() == IDS[2]
    page.keyboard.press("Escape")
    page.wait_for_selector("a.tile:focus")
    page.keyboard.press("ArrowLeft")  # from the tile of the image that was open
    page.keyboard.press("Enter")
    assert page.locator("#panel-title").text_content() == IDS[1]


def test_the_table_has_every_score_and_sorts(page, study):
    page.goto((study / "gallery.html").as_uri() + "#view=table")
    rows = page.locator("tbody tr:not(.gap)")
    assert rows.count() == 9
    page.get_by_role("button", name="mse", exact=True).click()
    assert rows.first.locator("a").get_attribute("title") == IDS[-1]
    page.get_by_role("button", name="mse", exact=True).click()
    assert rows.first.locator("a").get_attribute("title") == IDS[0]


@pytest.mark.parametrize("name", ["report", "gallery"])
def test_pages_are_dark_on_request_and_narrow_without_scrolling_sideways(page, study, name):
    page.goto((study / f"{name}.html").as_uri())
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.click(".theme")  # light, whatever the system says
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.click(".theme")
    page.emulate_media(color_scheme="light")
    assert page.evaluate(paper) == "rgb(20, 23, 26)"
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("document.documentElement.scrollWidth <= 390")


def test_the_report_sorts_its_tables_and_enlarges_its_figures(page, study):
    page.goto((study / "report.html").as_uri())
    table = page.locator("table", has_text="clutter")
    cells = table.locator("tbody tr td:first-child")
    assert cells.all_text_contents() == ["hue", "clutter"]
    head = table.get_by_role("button", name="ρ", exact=True)
    head.click()
    assert cells.all_text_contents() == ["clutter", "hue"]
    assert table.locator("th:nth-child(3)").get_attribute("aria-sort") == "descending"
    head.click()
    assert cells.all_text_contents() == ["hue", "clutter"]
    page.locator(".zoom").first.click()
    box = page.locator("#lightbox")
    first = box.locator("img").get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert box.locator("img").get_attribute("src") != first
    page.keyboard.press("ArrowRight")  # of two
    assert box.locator("img").get_attribute("src") == first
    page.keyboard.press("Escape")
    assert not box.is_visible()
    page.click("text=Open the gallery")
    assert page.locator("a.tile").count() == 9


def test_only_what_is_in_sight_exists(page, tmp_path):
    ids = [f"{number:05d}.jpg" for number in range(5000)]
    write(tmp_path, "splits", pd.DataFrame({"image_id": ids, "memorability": 0.5, "split": "test"}))
    write_gallery(tmp_path, read_scores(tmp_path), {})
    page.goto((tmp_path / "gallery.html").as_uri())
    assert page.locator("#count").text_content() == "5,000 images"
    assert page.locator("a.tile").count() < 150
    page.keyboard.press("Tab")
    page.locator("a.tile").first.focus()
    page.keyboard.press("End")
    assert page.locator("a.tile:focus").get_attribute("title") == "04999.jpg"
    assert page.locator("a.tile").count() < 300
    page.fill("#query", "0")  # from the end of the page
    assert page.locator('a.tile[title="00000.jpg"]').evaluate("one => one.getBoundingClientRect().top") > 0


def test_without_pictures_of_stage_2_the_files_themselves_are_shown_or_a_word(page, tmp_path):
    folder = tmp_path / "data" / "50% #1"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(folder / "a?.png")
    (folder / "b.png").write_bytes(b"no picture")
    output = tmp_path / "output"
    ids = ["50% #1/a?.png", "50% #1/b.png", "gone/c.png"]
    write(output, "splits", pd.DataFrame({"image_id": ids, "memorability": [0.9, 0.8, 0.7], "split": "test"}))
    runs = {"latent_analysis": {"inputs": {str(folder): {"pictures": 2}}}}
    write_gallery(output, read_scores(output), runs)
    page.on("console", lambda message: None)
    page.goto((output / "gallery.html").as_uri())
    page.wait_for_function("document.querySelectorAll('.none').length === 2")
    tiles = page.locator("a.tile")
    assert tiles.nth(0).locator("img").evaluate("one => one.naturalWidth") == 40
    tiles.nth(0).click()
    assert page.locator("#panel figure img").first.evaluate("one => one.className") == "whole"
    assert not page.locator("#show-label").is_visible()
