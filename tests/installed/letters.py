"""Makes a random BERT and the text of three clients in the working folder, without privfed."""

import csv
import random

TOPICS = {
    "sport": ["goal", "match", "team", "coach", "league", "score"],
    "money": ["bank", "share", "profit", "trade", "price", "stock"],
    "culture": ["film", "actor", "stage", "music", "album", "scene"],
}
CLIENTS = {"north": 81, "south": 72, "west": 63}


def write_text():
    """A line per record, with its topic and its client."""
    draw = random.Random(0)
    with open("letters.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "topic", "client"))
        for client, count in CLIENTS.items():
            for number in range(count):
                topic = draw.choice(sorted(TOPICS))
                words = [*draw.choices(TOPICS[topic], k=5), f"number{number % 20}"]
                table.writerow((" ".join(words), topic, client))


def write_model():
    """Two layers, width 32, and a tokenizer that knows the words above."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [word for topic in TOPICS.values() for word in topic]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokens = [*special, *words, *(f"number{number}" for number in range(20))]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=raw, **names).save_pretrained("bert")
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained("bert")


if __name__ == "__main__":
    write_text()
    write_model()
