"""Checking a store: one line for each finding, and one that sums up."""

import typer

from obuilder import Finding, Report, Settings, open_checker
from obuilder._cli.output import Output
from obuilder._cli.report import FAILED
from obuilder._cli.supervise import supervised

__all__ = ["finding_line", "run_check", "summary_line"]


def run_check(settings: Settings, *, repair: bool, rebuild: bool) -> None:
    """Check the store; `typer.Exit` with status 1 if something is wrong and was not repaired."""

    async def work(output: Output) -> int:
        def line(text: str) -> None:
            # A name in it may hold any bytes, and must not look like a second line.
            safe = "".join(char if char.isprintable() or char == " " else "?" for char in text)
            output.write(f"{safe}\n".encode("utf-8", "replace"))

        async with open_checker(settings) as checker:
            if rebuild:
                for note in await checker.rebuild_database():
                    line(f"Note: {note}")
            report = await checker.check(repair=repair)
        for finding in report.findings:
            line(finding_line(finding))
        for note in report.notes:
            line(f"Note: {note}")
        line(summary_line(report))
        return FAILED if report.faults else 0

    status = supervised(work)
    if status:
        raise typer.Exit(status)


def finding_line(finding: Finding) -> str:
    """A fault, and what became of it or what would."""
    if finding.repaired:
        end = "repaired"
    elif finding.why_not:
        end = f"not repaired: {finding.why_not}"
    else:
        end = f"repair: {finding.remedy}"
    return f"{finding.code} {finding.key}: {finding.what} ({end})"


def summary_line(report: Report) -> str:
    """What was looked at and how it was found."""
    looked = [
        _count(number, word)
        for number, word in ((report.results, "result"), (report.rows, "row"))
        if number is not None
    ]
    faults = [_count(len(report.faults), "fault") if report.faults else "no faults"]
    repaired = len(report.findings) - len(report.faults)
    if repaired:
        faults.append(f"{repaired} repaired")
    return f"Checked {' and '.join(looked) or 'the store'}: {', '.join(faults)}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
