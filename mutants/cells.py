"""The code cells of a notebook, and which of them depend on which."""

from __future__ import annotations

import ast
import builtins
import symtable
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

CHECKS = ("nb.derivation(", "nb.claim(", "nb.experiment(", "nb.results(", "print(", "assert ")


@dataclass
class Cell:
    """One code cell. ``line`` is that of its first line in the file; the sets hold global names.

    ``reads`` what the cell or a function in it uses, ``binds`` what it certainly assigns, ``writes`` what it may change,
    ``uses`` for each function defined here what its body reads.
    """

    number: int
    line: int
    source: str
    compared: bool
    reads: set[str] = field(default_factory=set)
    binds: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    uses: dict[str, set[str]] = field(default_factory=dict)
    imports: set[str] = field(default_factory=set)

    @property
    def shows(self) -> bool:
        """Whether the cell draws a figure."""
        return "nb.show(" in self.source

    @property
    def checks(self) -> bool:
        """Whether something in the cell can notice an error: a check, or an output that is compared."""
        return any(word in self.source for word in CHECKS) or self._displays()

    def _displays(self) -> bool:
        last = ast.parse(self.source).body[-1:]
        return bool(last) and isinstance(last[0], ast.Expr) and not isinstance(last[0].value, ast.Call)


def read(path: Path) -> list[Cell]:
    """The code cells of a py:percent file, with what they read and write."""
    from kexue_nb import execute

    text, position, cells = path.read_text(encoding="utf-8"), 0, []
    for cell in execute.read_source(path).cells:
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        position = text.index(cell.source, position)
        compared = "nbval-ignore-output" not in cell.metadata.get("tags", ())
        cells.append(analyse(Cell(len(cells), text.count("\n", 0, position) + 1, cell.source, compared)))
        position += len(cell.source)
    _close(cells)
    return cells


def analyse(cell: Cell) -> Cell:
    """Fill in what the cell reads and writes."""
    table = symtable.symtable(cell.source, f"cell {cell.number}", "exec")
    tree = ast.parse(cell.source)
    cell.reads = _globals(table)
    for child in table.get_children():
        if child.get_type() == "function" and child.get_name().isidentifier() and child.get_name() not in ("lambda", "genexpr"):
            cell.uses.setdefault(child.get_name(), set()).update(_globals(child))
    for symbol in table.get_symbols():
        if symbol.is_assigned() or symbol.is_imported():
            cell.writes.add(symbol.get_name())
        if symbol.is_imported():
            cell.imports.add(symbol.get_name())
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            cell.binds.add(statement.name)
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        cell.binds |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    cell.writes |= set(_changed_in_place(tree))
    return cell


def _globals(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())}
    return names.union(*(_globals(child) for child in table.get_children()))


def _changed_in_place(tree: ast.Module) -> Iterable[str]:
    """Names outside functions whose object a statement may change: x[i] = .., x.a = .., x.method(..) and f(x) as statements."""
    waiting = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        waiting += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
        if isinstance(node, (ast.Assign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                yield from (base(t) for t in ast.walk(target) if isinstance(t, (ast.Attribute, ast.Subscript)))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield base(node.value.func)
            yield from (a.id for a in node.value.args if isinstance(a, ast.Name))


def base(node: ast.AST) -> str:
    """The name that an expression such as a.b[c].d starts from."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _close(cells: list[Cell]) -> None:
    """Follow functions: who reads f reads what f reads. Modules and the notebook itself change for nobody."""
    fixed = set().union(*(c.imports for c in cells)) | {"nb", "", *dir(builtins)}
    uses: dict[str, set[str]] = {}
    for cell in cells:
        for name, read in cell.uses.items():
            uses.setdefault(name, set()).update(read)
    for cell in cells:
        waiting = list(cell.reads)
        while waiting:
            new = uses.get(waiting.pop(), set()) - cell.reads
            cell.reads |= new
            waiting += new
        cell.reads -= fixed
        cell.writes -= fixed
        cell.binds -= fixed


def noticing(cells: list[Cell], first: int) -> list[int]:
    """The later cells that check something which depends on cell ``first``."""
    tainted, found = set(cells[first].writes), []
    for cell in cells[first + 1 :]:
        if cell.reads & tainted:
            tainted |= cell.writes
            if cell.checks:
                found.append(cell.number)
        else:
            tainted -= cell.binds
    return found


def needed(cells: list[Cell], first: int, targets: Iterable[int]) -> list[int]:
    """The cells after ``first`` to run so that the ``targets`` can run, the targets included, in order."""
    targets = set(targets)
    names, chosen = set(), []
    for cell in reversed(cells[first + 1 :]):
        if cell.number in targets or cell.writes & names:
            names = (names - cell.binds) | cell.reads
            chosen.append(cell.number)
    return chosen[::-1]
