"""The weights of a saved model, and how a language model is loaded."""

from transformers import AutoModelForCausalLM

from privfed.models.load import load_pretrained
from privfed.settings.computation import BaseWeights

FILE = "model.safetensors"


def language_model(base):
    return load_pretrained(AutoModelForCausalLM.from_pretrained, base, BaseWeights.FLOAT32)
