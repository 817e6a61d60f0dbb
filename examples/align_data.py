"""The files of the alignment of SmolLM2: `python examples/align_data.py DATA runs/files`.

DATA holds published sets as they are: SMS spam, PII, ARC, OpenBookQA, CommonsenseQA, SIQA, PIQA, WinoGrande, BoolQ,
GSM8K, the seed tasks of self-instruct, and HH's harmless test file. Written are, short enough for a small machine:

- `tasks/*.jsonl`: a FLAN-style mixture, a file a cluster, every item said by one of several templates; `*_unseen` are
  items of the same clusters that are kept to judge by;
- `hh.jsonl` and `hh_unseen.jsonl`: preferences of few tokens;
- `sums.jsonl` and `sums_unseen.jsonl`: computations out of GSM8K's answers, with the number that verifies a reply.
"""

import gzip
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmrs.align import read
from lmrs.prompting import Template

CHOICE = (
    Template("{query}\nOptions:\n{options}"),
    Template("{query}\nWhich of these is right?\n{options}\nAnswer with its words."),
    Template("Choose the best answer.\n\n{query}\n{options}"),
)
SPAM = (
    Template("Is this text message spam or ham?\n\n{text}"),
    Template("{text}\n\nWas the message above wanted (ham) or unwanted (spam)?"),
)
SENSITIVE = (Template("{passage}\n\nDoes the passage contain sensitive information, yes or no?"),)
READING = (Template("{query}\nAnswer yes or no."), Template("Read the passage and answer yes or no.\n\n{query}"))
PROBLEM = (Template("{question}"), Template("Solve this, step by step.\n\n{question}"))
SUM = re.compile(r"<<(\d{1,4}[+*/-]\d{1,4})=(\d{1,5})>>")
ASKED = "Reply with the result alone."

LEARNT, UNSEEN = 400, 60
"""Items of a cluster that are learnt at most, and that are kept beside them."""
SHORT, JUDGED = 420, 200
"""Characters of a conversation that is learnt from, and how many preferences are kept to judge by."""


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def said(templates: Sequence[Template], at: int, example: dict[str, str], answer: str) -> dict[str, str]:
    return {"prompt": templates[at % len(templates)].fill(example), "completion": answer.strip()}


def choices(path: Path) -> Iterator[dict[str, str]]:
    """Items of the gauntlet's multiple choice; the letters of some stand for options that their query has."""
    for at, item in enumerate(lines(path)):
        options: list[str] = item["choices"] if "choices" in item else item["context_options"]
        query = item.get("query") or f"Which sentence makes sense when it ends in: {item['continuation']}"
        query, letters, _ = query.removeprefix("Question: ").strip().partition("\nChoices:\n")
        if letters:
            options = re.findall(r"^[A-E]\. (.+)$", letters, re.MULTILINE)
            if len(options) != len(item["choices"]):
                continue
        yield said(CHOICE, at, {"query": query, "options": "\n".join(f"- {o}" for o in options)}, options[item["gold"]])


def clusters(data: Path) -> dict[str, list[dict[str, str]]]:
    """Every item of every cluster."""
    gauntlet = data / "eval" / "llm-foundry."
    with gzip.open(data / "classification" / "SMSSpamCollection.gz", "rt", encoding="utf-8") as file:
        messages = [line.rstrip("\n").split("\t", 1) for line in file]
    classified = [said(SPAM, at, {"text": text}, label) for at, (label, text) in enumerate(messages)]
    for at, item in enumerate(lines(data / "classification" / "llm-foundry.enterprise_pii_classification.jsonl.gz")):
        passage = item["query"].partition("'''")[2].partition("'''")[0].strip()
        classified.append(said(SENSITIVE, at, {"passage": passage}, item["choices"][item["gold"]]))
    problems = [
        said(PROBLEM, at, {"question": item["question"]}, re.sub("<<.*?>>", "", item["answer"]))
        for at, item in enumerate(lines(data / "instruction" / "gsm8k.train.jsonl.gz"))
    ]
    told = [
        {"prompt": f"{task['instruction']}\n\n{case['input']}".strip(), "completion": case["output"]}
        for task in lines(data / "instruction" / "self-instruct.seed_tasks.jsonl.gz")
        for case in task["instances"][:1]
    ]

    def of(*names: str) -> list[dict[str, str]]:
        return [item for name in names for item in choices(Path(f"{gauntlet}{name}.jsonl.gz"))]

    return {
        "science": of("arc_easy", "arc_challenge", "openbook_qa"),
        "commonsense": of("commonsense_qa", "siqa", "piqa", "winogrande"),
        "reading": [
            said(READING, at, {"query": item["query"].partition("\nAnswer")[0]}, item["choices"][item["gold"]])
            for at, item in enumerate(lines(Path(f"{gauntlet}boolq.jsonl.gz")))
        ],
        "classification": classified,
        "arithmetic": problems,
        "instructions": told,
    }


def write(path: Path, items: Sequence[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(item)}\n" for item in items), encoding="utf-8")
    print(f"{path}: {len(items)}")


def main(data: Path, out: Path) -> None:
    random = np.random.Generator(np.random.Philox(key=0))
    for name, items in clusters(data).items():
        longest = 700 if name == "reading" else SHORT
        short = [item for item in items if sum(map(len, item.values())) <= longest and item["completion"]]
        kept = [short[i] for i in random.permutation(len(short))[: LEARNT + UNSEEN]]
        write(out / "tasks" / f"{name}_unseen.jsonl", kept[:UNSEEN])
        write(out / "tasks" / f"{name}.jsonl", kept[UNSEEN:])

    preferences = read(data / "preference" / "hh-rlhf.harmless-base.test.jsonl.gz", unfit="drop")
    short_pairs = []
    for p in preferences:
        turns: Any = p.prompt
        before = sum(len(turn["content"]) for turn in turns)
        if p.chosen and p.rejected and before + max(len(p.chosen), len(p.rejected)) <= SHORT:
            replies = ([{"role": "assistant", "content": reply}] for reply in (p.chosen, p.rejected))
            short_pairs.append(dict(zip(("prompt", "chosen", "rejected"), (turns, *replies), strict=True)))
    order = random.permutation(len(short_pairs))
    write(out / "hh_unseen.jsonl", [short_pairs[i] for i in order[:JUDGED]])
    write(out / "hh.jsonl", [short_pairs[i] for i in order[JUDGED:]])

    answers = [item["answer"] for item in lines(data / "instruction" / "gsm8k.train.jsonl.gz")]
    known = dict(found for answer in answers for found in SUM.findall(answer))
    sums = [
        {"prompt": [{"role": "system", "content": ASKED}, {"role": "user", "content": asked}], "answer": result}
        for asked, result in known.items()
    ]
    order = random.permutation(len(sums))
    write(out / "sums_unseen.jsonl", [sums[i] for i in order[:JUDGED]])
    write(out / "sums.jsonl", [sums[i] for i in order[JUDGED:]])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
