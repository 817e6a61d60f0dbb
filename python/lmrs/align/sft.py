"""Instruction tuning: tasks in the shapes people publish them, mixed, learnt from the assistant's words alone."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lmrs.align.preferences import conversation, objects, prompt_ids, reply_ids
from lmrs.errors import FormatError, InputError
from lmrs.models.beside import tokenizer_of
from lmrs.tokenizer import Tokenizer
from lmrs.train.ids import checked
from lmrs.train.objective import IGNORED, Example, NextToken

Conversation = list[dict[str, Any]]

_SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def instructions(path: str | os.PathLike[str], *, limit: int | None = None) -> list[Conversation]:
    """Conversations from JSON lines, each a list of ``{"role", "content"}`` with an assistant's turn at its end.

    Read are ``messages``; ShareGPT's ``conversations`` of ``from`` and ``value``; Alpaca's ``instruction``, ``input``,
    ``output``; Dolly's ``instruction``, ``context``, ``response``; ``prompt`` and ``completion``; ``question`` and
    ``answer`` (GSM8K); self-instruct's ``instruction`` and ``instances``. Raises FormatError naming the item that is
    none of these, or says nothing.
    """
    return [turns for at, item in enumerate(objects(path)[:limit]) for turns in _read(item, f"{path} item {at}")]


def _read(item: Mapping[str, Any], where: str) -> list[Conversation]:
    if "messages" in item:
        return [_answered(conversation(item["messages"], where), where)]
    if "conversations" in item:
        turns = item["conversations"]
        if not isinstance(turns, list) or not all(isinstance(t, dict) and t.get("from") in _SHAREGPT for t in turns):
            raise FormatError(f"{where}: expected turns from one of {', '.join(_SHAREGPT)}")
        named = [{"role": _SHAREGPT[turn["from"]], "content": turn.get("value")} for turn in turns]
        return [_answered(conversation(named, where), where)]
    if isinstance(item.get("instances"), list):
        return [_told(item, i.get("input", ""), i.get("output"), where) for i in item["instances"]]
    for asked, beside, said in _SHAPES:
        if asked in item and said in item:
            return [_told({"instruction": item[asked]}, item.get(beside, ""), item[said], where)]
    raise FormatError(
        f"{where}: has {', '.join(item)}, expected messages, conversations, or an instruction and its answer"
    )


_SHAPES = (
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("prompt", "input", "completion"),
    ("question", "context", "answer"),
)


def _told(item: Mapping[str, Any], beside: object, said: object, where: str) -> Conversation:
    asked = item.get("instruction")
    if not isinstance(asked, str) or not isinstance(beside, str) or not isinstance(said, str):
        raise FormatError(f"{where}: expected texts for the instruction, what is beside it and the answer")
    content = f"{asked}\n\n{beside}" if beside.strip() else asked
    return _answered([{"role": "user", "content": content}, {"role": "assistant", "content": said}], where)


def _answered(turns: Conversation, where: str) -> Conversation:
    if not turns or turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise FormatError(f"{where}: does not end with something that the assistant says")
    return turns


def mixed(
    tasks: Mapping[str, Sequence[Conversation]], *, count: int, cap: int = 3000, temperature: float = 1.0, seed: int = 0
) -> list[tuple[str, Conversation]]:
    """``count`` conversations of ``tasks``, with their task, each drawn with ``p ∝ min(size, cap)^(1 / temperature)``.

    The examples-proportional mixing of Raffel et al. 2020, §3.5.2: a cap keeps large tasks from drowning the others,
    a temperature above 1 evens out further. Within a task none comes twice before all have come once. Raises InputError
    for an impossible setting or an empty task.
    """
    if count < 1 or cap < 1 or not temperature > 0:
        raise InputError(f"count {count}, cap {cap} and temperature {temperature}: expected 1, 1 and more than 0")
    for name, conversations in tasks.items():
        if not conversations:
            raise InputError(f"the task {name} is empty")
    names = sorted(tasks)
    shares = np.array([min(len(tasks[name]), cap) ** (1 / temperature) for name in names])
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = random.choice(len(names), count, p=shares / shares.sum())
    found: list[tuple[str, Conversation]] = [("", [])] * count
    for number, name in enumerate(names):
        places, size = np.flatnonzero(drawn == number), len(tasks[name])
        orders = [random.permutation(size) for _ in range(-(-len(places) // size))]
        for place, index in zip(places, np.concatenate(orders) if orders else [], strict=False):
            found[place] = (name, tasks[name][int(index)])
    return found


def held_out(
    tasks: Mapping[str, Sequence[Conversation]], cluster: Callable[[str], str], *, clusters: Sequence[str]
) -> tuple[dict[str, Sequence[Conversation]], dict[str, Sequence[Conversation]]]:
    """``tasks`` to learn from, and those of the named ``clusters``, kept whole to judge by (Wei et al. 2022).

    Raises InputError if a cluster has no task, or none is left to learn from.
    """
    for name in clusters:
        if all(cluster(task) != name for task in tasks):
            raise InputError(f"the cluster {name} has no task")
    kept = {task: items for task, items in tasks.items() if cluster(task) in clusters}
    rest = {task: items for task, items in tasks.items() if task not in kept}
    if not rest:
        raise InputError("every cluster is held out: there is nothing to learn from")
    return rest, kept


def completion(
    model: Any,
    conversations: Sequence[Conversation],
    *,
    tokenizer: Tokenizer | None = None,
    longest: int | None = None,
    every_turn: bool = False,
) -> NextToken:
    """The objective ``-Σ log p`` of what the assistant says, for :func:`lmrs.train.fit`; the rest is read, not learnt.

    The chat template writes a conversation; learnt is its last turn, or with ``every_turn`` each of the assistant's,
    as an example of its own after what came before it. Examples are packed and see only themselves. Those of more than
    ``longest`` tokens (by default what the model takes) are left out. Raises InputError if none is left.
    """
    tokenizer = tokenizer or tokenizer_of(model)
    room = 2**31 if model.config.context is None else model.config.context + 1
    limit = room if longest is None else min(longest, room)
    examples = []
    for turns in conversations:
        spoken = [at for at, turn in enumerate(turns) if turn["role"] == "assistant" and at]
        for at in spoken if every_turn else spoken[-1:]:
            prompt = prompt_ids(tokenizer, turns[:at])
            reply = reply_ids(tokenizer, turns[:at], turns[at]["content"])
            whole = prompt + reply
            if reply and len(whole) <= limit:
                checked(model, [whole], "conversation")
                examples.append(Example(whole[:-1], [IGNORED] * (len(prompt) - 1) + reply))
    if not examples:
        raise InputError(f"none of {len(conversations)} conversations has an answer within {limit} tokens")
    return NextToken(model, examples)
