"""A task for lmms-eval without network: generated clips, questions and what they look like."""

import json
import textwrap

import av

from tokenred.embedded import generate_sample

FIRST = 1002
UTILS = """
def doc_to_visual(doc):
    return [doc["video"]]


def doc_to_text(doc, lmms_eval_specific_kwargs=None):
    return (lmms_eval_specific_kwargs or {}).get("pre_prompt", "") + doc["question"]


def process_results(doc, results):
    return {"acc": float(results[0].strip() == doc["answer"])}
"""
SHARED = """
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
"""
WRITTEN = """
task: clips
output_type: generate_until
doc_to_target: "answer"
generation_kwargs:
  max_new_tokens: 1
process_results: !function utils.process_results
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
  llava_vid:
    pre_prompt: "is "
metadata:
  version: 0.0
"""
CHOSEN = """
task: clips_options
output_type: multiple_choice
doc_to_choice: options
doc_to_target: place
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 0.0
"""
GROUP = """
group: clips_both
task:
  - clips
  - clips_options
"""


def write_clip(path, frames):
    """Write frames without loss, one a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=1)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def make_task(folder, n_videos):
    """Write clips, questions and task files; return the questions."""
    docs = []
    for index in range(FIRST, FIRST + n_videos):
        sample = generate_sample(index)
        clip = folder / f"{index}.mkv"
        write_clip(clip, sample.frames)
        for question in sample.questions:
            options = list(question.options)
            docs.append(
                {
                    "video": str(clip),
                    "index": index,
                    "question": question.prompt,
                    "options": options,
                    "answer": question.answer,
                    "place": options.index(question.answer),
                }
            )
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (folder / "utils.py").write_text(UTILS)
    shared = SHARED.format(questions=questions)
    for name, text in (("clips", shared + WRITTEN), ("clips_options", shared + CHOSEN)):
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    (folder / "clips_both.yaml").write_text(GROUP)
    return docs
