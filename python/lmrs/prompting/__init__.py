"""Prompting: a task said in words, and a model's words read as its answer.

task = Task(Template("{text} It was"), Verbalizer({"good": [" great", " fun"], "bad": [" awful"]}))
task.classify(engine, [{"text": "A film to love."}], shots=examples, calibrated=True)
"""

from lmrs.prompting.task import Answer, Task
from lmrs.prompting.template import Template
from lmrs.prompting.verbalizer import Verbalizer

__all__ = ["Answer", "Task", "Template", "Verbalizer"]
