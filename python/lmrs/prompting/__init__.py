"""Prompting: a task said in words, and a model's words read as its answer.

    task = Task(Template("{text} It was {mask}."), Verbalizer({"good": [" great", " fun"], "bad": [" awful"]}))
    task.answer(engine, [{"text": "A film to love."}], shots=examples, calibrated=True)

Masked models fill the mask, encoder-decoders answer, and others go on. A template may begin with soft tokens, which
its :meth:`Template.prompt` puts on the model to be trained:

    template = Template("{soft*20} {text} It was")
    tuned = template.prompt(model)(model)
    train.fit(train.sft(tuned, [(template.fill(example), " great") for example in examples]))
"""

from lmrs.prompting.files import Jinja, openprompt, promptsource
from lmrs.prompting.task import Answer, Task
from lmrs.prompting.template import Template
from lmrs.prompting.verbalizer import Learned, Verbalizer, learned

__all__ = ["Answer", "Jinja", "Learned", "Task", "Template", "Verbalizer", "learned", "openprompt", "promptsource"]
