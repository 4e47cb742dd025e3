"""Where an error can be planted in Python source: one operator, one expression, one place."""

from __future__ import annotations

import ast
import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

SWAPPED = {
    "min": "max",
    "amin": "amax",
    "argmin": "argmax",
    "minimum": "maximum",
    "fmin": "fmax",
    "cummin": "cummax",
    "clamp_min": "clamp_max",
    "Min": "Max",
}
SWAPPED |= {b: a for a, b in SWAPPED.items()}
POWERS = {"square": "abs", "rsqrt": "sqrt"}
ROOTS = {"sp": "cbrt", "np": "cbrt", "math": "cbrt", "mpmath": "cbrt", "torch": "square"}


def _words(text: str) -> set[str]:
    return set(text.split())


AXES = _words("sum mean prod softmax log_softmax cumsum cumprod logsumexp amax amin argmax argmin norm std var flip roll stack cat")
AXES |= _words("concatenate sort topk any all diff median quantile repeat_interleave unbind chunk split")
# Calls that hold checks, figures, text or configuration, by the name they start from, or by their own.
NOT_FROM = _words("nb ledger sym symbolic plt axes ax figure fig print plotting display warnings records runtime pytest")
NOT_CALLED = _words("manual_seed Generator default_rng seed_everything at_scale getLogger ValueError TypeError RuntimeError format join")
SIZED = _words("randn rand randint zeros ones empty arange linspace geomspace logspace full normal uniform standard_normal symbols")
NOT_KEYWORDS = _words("seed seeds rel abs tol atol rtol eps digits scope machine draws sigmas dps maxiter xatol limit points method dtype")
NOT_KEYWORDS |= _words("device generator color label lw ls alpha fontsize figsize edges key default strict file end sep")
SCALE = re.compile(r"cuda|\bscale\b|is_available|bf16|google\.colab")
FORMULAS = {"sp", "sympy", "mpmath"}


@dataclass(frozen=True)
class Site:
    """One planted error: ``source`` with the bytes from ``start`` to ``end`` replaced by ``new``. ``scope`` names what it stands in."""

    operator: str
    scope: str
    line: int
    start: int
    end: int
    new: str
    id: str = ""

    def plant(self, source: str) -> str:
        """The source with the error in it."""
        data = source.encode()
        return (data[: self.start] + self.new.encode() + data[self.end :]).decode()


def diff(source: str, site: Site) -> tuple[str, str]:
    """The lines that the error changes, before and after."""
    data = source.encode()
    first = data.rfind(b"\n", 0, site.start) + 1
    last = data.find(b"\n", site.end)
    last = len(data) if last < 0 else last
    before = data[first:last].decode()
    after = (data[first : site.start] + site.new.encode() + data[site.end : last]).decode()
    return before.strip(), after.strip()


def sites(source: str, unit: str, *, only_functions: bool = False) -> list[Site]:
    """Every place of ``source`` where an error can be planted; ``unit`` (a slug or module) goes into their ids."""
    walker = _Walker(source, only_functions)
    walker.visit(ast.parse(source))
    found, seen = [], defaultdict(int)
    for site in sorted(walker.found, key=lambda s: (s.start, s.end, s.operator, s.new)):
        words = (unit, site.scope, site.operator, *diff(source, site))
        seen[words] += 1
        id = hashlib.sha256(repr((*words, seen[words])).encode()).hexdigest()[:10]
        found.append(Site(site.operator, site.scope, site.line, site.start, site.end, site.new, id))
    return found


def sample(places: list, seed: int, each: int = 2) -> Iterator:
    """``places`` (things with a ``site``) in the order of ``seed``: the operators take turns, at most ``each`` from one scope."""
    by_operator, used = defaultdict(list), defaultdict(int)
    for place in sorted(places, key=lambda p: _draw(seed, p.site.id)):
        by_operator[place.site.operator].append(place)
    turns = sorted(by_operator, key=lambda name: _draw(seed, name + by_operator[name][0].site.id))
    while any(by_operator.values()):
        for name in turns:
            while by_operator[name]:
                place = by_operator[name].pop(0)
                if used[place.site.scope] < each:
                    used[place.site.scope] += 1
                    yield place
                    break


def _draw(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()


def _root(node: ast.AST) -> str:
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _number(node: ast.AST):
    """The value of a literal number, its sign included, or None."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and (value := _number(node.operand)) is not None:
        return -value
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    return None


def _text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _plain(node: ast.AST) -> bool:
    """A number, or a container of nothing else: configuration, where it stands alone."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(_plain(x) for x in node.elts)
    return _number(node) is not None or isinstance(node, ast.Constant)


def _draws(function: ast.AST) -> bool:
    return any(
        _root(n) in ("plt", "axes", "ax", "figure", "fig") for n in ast.walk(function) if isinstance(n, (ast.Attribute, ast.Subscript))
    )


class _Walker(ast.NodeVisitor):
    def __init__(self, source: str, only_functions: bool):
        self.data, self.only_functions = source.encode(), only_functions
        self.lines = [0]
        for line in self.data.split(b"\n"):
            self.lines.append(self.lines[-1] + len(line) + 1)
        self.found: list[Site] = []
        self.scope: list[str] = []
        self.depth = 0  # of functions and lambdas
        self.local: set[str] = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)}

    # Places

    def at(self, node: ast.AST) -> tuple[int, int]:
        return self.lines[node.lineno - 1] + node.col_offset, self.lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, end = self.at(node)
        text = self.data[start:end].decode()
        return text if isinstance(node, (ast.Name, ast.Constant, ast.Call, ast.Attribute, ast.Subscript)) else f"({text})"

    def plant(self, operator: str, where: ast.AST | tuple[int, int], new: str) -> None:
        start, end = self.at(where) if isinstance(where, ast.AST) else where
        line = self.data.count(b"\n", 0, start) + 1
        if self.data[start:end].decode() != new:
            self.found.append(Site(operator, ".".join(self.scope) or f"{self.statement}", line, start, end, new))

    def between(self, left: ast.AST, right: ast.AST, sign: str) -> tuple[int, int]:
        """Where the operator between two operands stands."""
        start = self.at(left)[1]
        gap = re.sub(rb"#[^\n]*", lambda m: b" " * len(m.group()), self.data[start : self.at(right)[0]])
        return start + gap.index(sign.encode()), start + gap.index(sign.encode()) + len(sign)

    # Statements

    def visit_Module(self, node):
        for statement in node.body:
            self.statement = hashlib.sha256(ast.dump(statement).encode()).hexdigest()[:8]
            if not self.only_functions or isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                self.visit(statement)

    def visit_FunctionDef(self, node):
        if _draws(node):
            return
        self.scope.append(node.name)
        self.depth += 1
        for statement in node.body:
            self.visit(statement)
        self.depth -= 1
        self.scope.pop()

    def visit_ClassDef(self, node):
        self.scope.append(node.name)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit(statement)
        self.scope.pop()

    def visit_Lambda(self, node):
        self.depth += 1
        self.visit(node.body)
        self.depth -= 1

    def visit_Assign(self, node):
        if self.depth or not _plain(node.value):
            self.visit(node.value)
            for target in node.targets:
                if isinstance(target, ast.Subscript):
                    self.visit(target)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)

    def visit_AugAssign(self, node):
        signs = {
            ast.Add: ("+=", "-=", "sign"),
            ast.Sub: ("-=", "+=", "sign"),
            ast.Mult: ("*=", "/=", "factor"),
            ast.Div: ("/=", "*=", "factor"),
        }
        if type(node.op) in signs:
            old, new, operator = signs[type(node.op)]
            self.plant(operator, self.between(node.target, node.value, old), new)
        self.visit(node.value)

    def visit_If(self, node):
        if not SCALE.search(ast.unparse(node.test)) and not all(isinstance(s, ast.Raise) for s in node.body):
            self.visit(node.test)
            for statement in node.body:
                self.visit(statement)
        for statement in node.orelse:
            self.visit(statement)

    def visit_IfExp(self, node):
        if not SCALE.search(ast.unparse(node.test)):
            self.generic_visit(node)

    def visit_With(self, node):
        for item in node.items:
            call = item.context_expr
            if isinstance(call, ast.Call) and _called(call) == "no_grad":
                self.plant("gradient", call.func, self.text(call.func).replace("no_grad", "enable_grad"))
        self.generic_visit(node)

    def _nothing(self, node):
        pass

    visit_Assert = visit_Raise = visit_Import = visit_ImportFrom = visit_JoinedStr = visit_Global = _nothing

    # Expressions

    def visit_BinOp(self, node):
        left, right = node.left, node.right
        if not any(isinstance(x, (ast.List, ast.JoinedStr)) or _text(x) for x in (left, right)):
            match node.op:
                case ast.Add() | ast.Sub():
                    old, new = ("+", "-") if isinstance(node.op, ast.Add) else ("-", "+")
                    self.plant("sign", self.between(left, right, old), new)
                    self.plant("drop", node, self.text(left))
                    if isinstance(node.op, ast.Add):
                        self.plant("drop", node, self.text(right))
                case ast.Mult() | ast.Div():
                    old, new = ("*", "/") if isinstance(node.op, ast.Mult) else ("/", "*")
                    self.plant("factor", self.between(left, right, old), new)
                    self.plant("drop", node, self.text(left))
                    if isinstance(node.op, ast.Mult):
                        self.plant("drop", node, self.text(right))
                case ast.MatMult():
                    self.plant("swap", node, f"{self.text(right)} @ {self.text(left)}")
                case ast.Pow():
                    if (value := _number(right)) is not None:
                        self.plant("exponent", right, self.changed(value))
            for side in (left, right):
                if (value := _number(side)) is not None and not (isinstance(node.op, ast.Pow) and side is right):
                    self.constant(side, value)
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub) and _number(node) is None:
            self.plant("sign", node, self.text(node.operand))
        self.generic_visit(node)

    def visit_Subscript(self, node):
        self.visit(node.value)
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        for part in parts:
            ends = [part.lower, part.upper] if isinstance(part, ast.Slice) else [part]
            for end in ends:
                if end is None:
                    continue
                value = _number(end)
                if isinstance(value, int):
                    self.plant("index", end, str(value - 1 if value < 0 else value + 1))
                elif isinstance(part, ast.Slice):
                    self.plant("index", end, f"{self.text(end)} - 1")
                if value is None:
                    self.visit(end)

    def visit_Attribute(self, node):
        if node.attr in ("T", "mT", "H"):
            self.plant("transpose", node, self.text(node.value))
        self.generic_visit(node)

    def visit_Call(self, node):
        root, name = _root(node.func), _called(node)
        if root in NOT_FROM or name in NOT_CALLED:
            return
        self.call_operators(node, root, name)
        formula = root in FORMULAS or (self.depth and name not in SIZED and name not in AXES)
        for argument in node.args:
            value = _number(argument)
            if value is None:
                self.visit(argument)
            elif name in ("pow", "float_power"):
                self.plant("exponent", argument, self.changed(value))
            elif formula and name not in ("range", "transpose", "permute", "swapaxes", "view", "reshape", "unsqueeze", "squeeze", "expand"):
                self.constant(argument, value)
        for keyword in node.keywords:
            if keyword.arg not in NOT_KEYWORDS and _number(keyword.value) is None:
                self.visit(keyword.value)
        self.visit(node.func)

    def call_operators(self, node, root, name):
        args, func = node.args, node.func
        attribute = isinstance(func, ast.Attribute)
        tail = (self.at(func)[1] - len(name), self.at(func)[1])
        if name in SWAPPED:
            self.plant("minmax", tail, SWAPPED[name])
        if name == "log" and attribute and root not in FORMULAS | {"F"}:
            self.plant("log", tail, "log2")
        if name in POWERS and attribute:
            self.plant("exponent", tail, POWERS[name])
        if name == "sqrt" and attribute:
            self.plant("exponent", tail, ROOTS.get(root, "square") if args else "square")
        if name == "detach":
            self.plant("gradient", node, self.text(func.value))
        if name in ("transpose", "t", "swapaxes") and attribute and root not in ("torch", "np"):
            self.plant("transpose", node, self.text(func.value))
        if name == "range" and args:
            stop = args[min(1, len(args) - 1)]
            if _number(stop) is None or len(args) > 1:
                self.plant("range", stop, f"{self.text(stop)} - 1")
            if len(args) > 1:
                self.plant("range", args[0], f"{self.text(args[0])} + 1")
        if name in AXES and attribute:
            place = args[1:2] if root in ("torch", "np", "F") else args[:1]
            for axis in place + [k.value for k in node.keywords if k.arg in ("dim", "axis")]:
                if isinstance(value := _number(axis), int) and name not in ("topk", "chunk", "split", "roll", "diff", "quantile", "norm"):
                    self.plant("axis", axis, {0: "1", -2: "-1"}.get(value, str(value - 1)))
        plain = not any(isinstance(a, ast.Starred) for a in args)
        if name == "where" and len(args) == 3:
            self.swap(args[1], args[2])
        elif isinstance(func, ast.Name) and name in self.local and len(args) >= 2 and plain:
            self.swap(args[0], args[1])

    def swap(self, a, b):
        if ast.dump(a) != ast.dump(b):
            middle = self.data[self.at(a)[1] : self.at(b)[0]].decode()
            one, two = (self.data[slice(*self.at(x))].decode() for x in (a, b))
            self.plant("swap", (self.at(a)[0], self.at(b)[1]), two + middle + one)

    def constant(self, node, value):
        if isinstance(value, int) or abs(value) > 1e-6:
            self.plant("constant", node, self.changed(value))

    @staticmethod
    def changed(value) -> str:
        return str(value + 1) if isinstance(value, int) else repr(round(value * 1.25, 12))
