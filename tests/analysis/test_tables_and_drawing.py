"""Tables as text; captions and image grids as pixels."""

import torch

from visiontune.analysis.tables import render, render_markdown
from visiontune.models.heads.drawing import BAD, GOOD, caption, image_grid


def test_numbers_are_right_aligned() -> None:
    text = render("title", ["name", "value"], [["a", 1], ["long name", -20.5]])
    assert text.splitlines() == ["title", "name       value", "a              1", "long name  -20.5"]


def test_a_table_of_any_width_is_not_cut_and_has_no_markup() -> None:
    word = "x" * 200
    assert render("", ["key"], [[word], ["[bold]a[/bold]"]]).splitlines() == ["key", word, "[bold]a[/bold]"]


def test_markdown_shows_every_text_as_it_is() -> None:
    text = render_markdown(["a_b", "c"], [["x|y\\", 1], ["[l](u) <b>", "a\nb"]])
    assert text.splitlines() == [
        "| a\\_b | c |",
        "| --- | --- |",
        "| x\\|y\\\\ | 1 |",
        "| \\[l\\](u) \\<b\\> | a\\\\nb |",
    ]


def test_caption() -> None:
    image = torch.full((3, 40, 80), 7, dtype=torch.uint8)
    for bad, colour in ((False, GOOD), (True, BAD)):
        captioned = caption(image, ["cat 90%", "truth: dog"], bad=bad)
        assert captioned.dtype == torch.uint8 and captioned.shape == (3, 160 + 44, 320)
        assert bool((captioned[:, :160] == 7).all())
        assert captioned[:, -1, -1].tolist() == list(colour)
        assert bool((captioned[:, 160:] == 255).any())  # letters
    large = torch.zeros(1, 200, 300, dtype=torch.uint8)
    assert caption(large, []).shape == (3, 200, 300)


def test_grid() -> None:
    images = [torch.full((3, 20, 20), 10 * i, dtype=torch.uint8) for i in range(5)]
    sheet = image_grid(images, width=170, gap=2)  # columns of 40
    assert sheet.shape == (3, 2 * 42 + 2, 4 * 42 + 2) and sheet.dtype == torch.uint8
    assert [int(sheet[0, 2 + 5, 2 + 42 * i + 5]) for i in range(4)] == [0, 10, 20, 30]
    assert int(sheet[0, 44 + 5, 2 + 5]) == 40 and int(sheet[0, -1, -1]) == 255


def test_wide_images_are_in_two_columns_without_gaps() -> None:
    images = [torch.full((3, 10, 20), 10 * i, dtype=torch.uint8) for i in range(3)]
    sheet = image_grid(images, width=170, gap=2)  # columns of 82, rows of 41
    assert sheet.shape == (3, 2 * 43 + 2, 2 * 84 + 2)
    assert [int(sheet[0, 5, 5]), int(sheet[0, 5, 90]), int(sheet[0, 50, 5])] == [0, 10, 20]
    assert int(sheet[0, 50, 90]) == 255
