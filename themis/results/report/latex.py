r"""LaTeX tables in booktabs style; needs only \usepackage{booktabs} and a UTF-8 engine."""

from themis.results.report.data import ReportData
from themis.results.report.tables import TextTable, report_tables
from themis.results.report.terminal import printable

# One pass over the characters: replacing one after the other would escape the braces that an
# earlier replacement wrote.
_ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "{": r"\{",
        "}": r"\}",
        "$": r"\$",
        "&": r"\&",
        "#": r"\#",
        "%": r"\%",
        "_": r"\_",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        '"': r"{\char34}",  # \textquotedbl needs T1, which is not every document's encoding
        "*": r"\textasteriskcentered{}",
        "†": r"\dag{}",
        "‡": r"\ddag{}",
        "§": r"\S{}",
        "¶": r"\P{}",
    }
)


def render_latex(data: ReportData) -> str:
    """Write the tables of a report, each a `table` environment, ready to be included."""
    head = "\n".join(f"% {one_line(line)}" for line in (data.title, data.run_id, data.created))
    return f"{head}\n" + "\n".join(latex_table(table) for table in report_tables(data))


def latex_table(table: TextTable) -> str:
    """Write one table; rows whose difference the data support are bold."""
    lines = [" & ".join(escape(column.title) for column in table.columns)]
    for place, row in enumerate(table.rows):
        cells = [escape(cell) for cell in row]
        if place in table.strong:
            cells = [rf"\textbf{{{cell}}}" for cell in cells]
        lines.append(" & ".join(cells))
    layout = "".join("r" if column.numeric else "l" for column in table.columns)
    # A row that starts with "[" would be read as the option of the \\ before it.
    body = "".join(f"{'{}' if line[:1] == '[' else ''}{line} \\\\\n" for line in lines[1:])
    notes = " ".join(escape(note) for note in table.notes)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{escape(table.title)}. {notes}}}\n"
        f"\\begin{{tabular}}{{{layout}}}\n\\toprule\n{lines[0]} \\\\\n\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


def escape(text: str) -> str:
    r"""Make text stand for itself.

    >>> escape("50 % of a_b \\{x}")
    '50 \\% of a\\_b \\textbackslash{}\\{x\\}'
    """
    return printable(text).translate(_ESCAPES)


def one_line(text: str) -> str:
    """Make text fit for a comment, which ends with its line."""
    return printable(text)
