"""Several processes that share one copy of the weights: loaded before gunicorn forks, and never written.

MODEL=smollm2.gguf gunicorn --preload --workers 2 --worker-class asgi gunicorn_preload:app
"""

import os

import lmrs
from lmrs.serve import create_app

engine = lmrs.Engine(lmrs.load(os.environ["MODEL"]), dtype="int8")
# Packs the weights now, in the process that all workers are copies of. Its threads end; each worker starts its own.
engine.generate([1], max_tokens=1)
engine.close()
app = create_app(engine, name="model")
