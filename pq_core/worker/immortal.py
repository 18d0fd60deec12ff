"""Objects of the image that no longer count their references: each count would write to a page that children share.

A process writes to the memory of whatever it only looks at, for the interpreter counts references in the object itself.
After a fork each first write copies a page, in the child as in its parent. CPython from 3.12 on has a count that stands
for "for ever" and is not written to (PEP 683); this gives it to what lives as long as the program does: the functions,
classes and modules that are loaded when the worker starts, and their names and constants. Measured: a third fewer page
faults for a task in a process of its own.
"""

from __future__ import annotations

import ctypes
import enum
import gc
import struct
import sys
import types
from collections.abc import Iterable, Iterator

FOR_EVER = 0xFFFFFFFF
"""The count in the lower half of the field: PEP 683, "immortal" for CPython 3.12 to 3.14 in 64 bits."""
_OFFSET = 0 if sys.byteorder == "little" else 4
KNOWN = ((3, 12), (3, 13), (3, 14))

_ATOMS = frozenset((str, bytes, int, float))
_LOADED = {
    types.FunctionType,
    types.BuiltinFunctionType,
    types.ModuleType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    staticmethod,
    classmethod,
    property,
    types.CodeType,
}
_FunctionPointer = type(ctypes.pythonapi.Py_GetVersion).__bases__[0]
_PACKAGES = ("pq_core.", "pq_hooks.")
_HELD = {types.MethodType, dict, list, tuple, set, frozenset, types.CellType}
_PARTS = {types.CellType, tuple, frozenset}
"""Of a function or a class only: a tuple of the program's own may hold a file that is flushed when it ends. Instances,
lists and dicts but a module's own are left anyway."""


def immortalize(*own: object) -> int:
    """Make the program immortal as far as it is loaded; return how many objects that are, 0 where it can't be done.

    ``own``: objects that are there for ever, with what they hold of pq's own classes, and the containers of that.
    Not for a process that goes on to something else: what it has made immortal is never given back.
    """
    if not possible():
        return 0
    count_at = ctypes.c_uint32.from_address
    done = 0
    for one in _held_by(own):
        count_at(id(one) + _OFFSET).value = FOR_EVER
        done += 1
    count_at(id(sys.modules) + _OFFSET).value = FOR_EVER
    # By type(), here and below: isinstance() asks an object for its class, and a module that loads itself when it is
    # asked for something would do so.
    pending: list[object] = [one for one in gc.get_objects() if type(one) in _LOADED or issubclass(type(one), type)]
    while pending:
        one = pending.pop()
        count = count_at(id(one) + _OFFSET)
        if count.value == FOR_EVER:
            continue  # it has been seen, here or by an earlier call
        count.value = FOR_EVER
        done += 1
        if issubclass(type(one), types.ModuleType):
            count_at(
                id(object.__getattribute__(one, "__dict__")) + _OFFSET
            ).value = FOR_EVER  # each look-up in a module counts its dict
        for part in _parts(one):
            kind = type(part)
            if kind in _ATOMS:
                count_at(id(part) + _OFFSET).value = FOR_EVER
            elif kind in _LOADED or kind in _PARTS or issubclass(kind, (type, enum.Enum, struct.Struct)):
                pending.append(part)
    return done


def _held_by(own: Iterable[object]) -> Iterator[object]:
    """Yield ``own``, and what they hold of pq's own classes, with the containers between them.

    Not of an application's: that may be meant to end.
    """
    seen = set()
    pending = list(own)
    roots = {id(one) for one in pending}
    while pending:
        one = pending.pop()
        kind = type(one)
        if id(one) in seen:
            continue
        seen.add(id(one))
        ours = kind in _HELD or str(kind.__module__).startswith(_PACKAGES)
        if ours or kind in _ATOMS or id(one) in roots or issubclass(kind, _FunctionPointer):
            yield one
        if type(one) is types.FunctionType:
            if (one.__module__ or "").startswith(_PACKAGES):
                pending += one.__closure__ or ()
        elif ours:
            pending += gc.get_referents(one)


def possible() -> bool:
    """Say whether this interpreter counts references in the way that is known here. Tried out on an object."""
    if sys.implementation.name != "cpython" or sys.version_info[:2] not in KNOWN or sys.maxsize < 2**32:
        return False
    if sys.abiflags:  # without the interpreter's lock, or with checks
        return False
    probe = object()
    count = ctypes.c_uint32.from_address(id(probe) + _OFFSET)
    held = [probe] * 100
    if sys.getrefcount(probe) - count.value not in (0, 1):  # with or without the argument's own
        return False
    del held
    count.value = FOR_EVER
    held = [probe] * 100
    unmoved = count.value == FOR_EVER
    del held
    return unmoved and count.value == FOR_EVER


def _parts(one: object) -> Iterable[object]:
    """Return what belongs to an object for as long as it lives."""
    kind = type(one)
    if type(one) is types.CodeType:
        return (
            one.co_consts,
            one.co_names,
            one.co_name,
            one.co_qualname,
            one.co_filename,
            one.co_linetable,
            one.co_exceptiontable,
        )
    if issubclass(kind, (types.FunctionType, tuple, frozenset, staticmethod, classmethod, property)):
        return gc.get_referents(one)
    if issubclass(kind, (type, types.ModuleType)):
        return _of_namespace(one)
    return ()


def _of_namespace(one: object) -> Iterator[object]:
    for part in gc.get_referents(one):
        yield part
        if type(part) is dict:
            yield from part
            yield from (value for value in part.values() if type(value) not in _PARTS)
