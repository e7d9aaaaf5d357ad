"""An index as large as that of LocalAI, and built like it: metas with anchors, and builds that are merged from them."""

from __future__ import annotations

METAS, CONCRETES = 140, 893

BUILDS = {
    "default": "cpu",
    "nvidia": "cuda12",
    "nvidia-cuda-12": "cuda12",
    "nvidia-cuda-13": "cuda13",
    "nvidia-l4t": "nvidia-l4t-arm64",
    "amd": "rocm",
    "intel": "intel-sycl-f16",
    "vulkan": "vulkan",
    "metal": "metal-darwin-arm64",
}


def official_index() -> bytes:
    lines = ["---", "## metas"]
    for number in range(METAS):
        engine = f"engine-{number}"
        lines += [
            f"- &engine{number}",
            f'  name: "{engine}"',
            f'  alias: "{engine}"',
            "  license: mit",
            f"  icon: https://example.com/{number}.png?size=200",
            "  description: |",
            *(f"    Engine {number} runs models of kind {line}: text, speech and pictures." for line in range(8)),
            "  urls:",
            f"    - https://example.com/{engine}",
            "  tags:",
            *(f"    - {tag}" for tag in ("text-to-text", "LLM", "CPU", "GPU")),
            "  capabilities:",
            *(f'    {capability}: "{build}-{engine}"' for capability, build in BUILDS.items()),
        ]
    lines.append("## builds")
    builds = list(dict.fromkeys(BUILDS.values()))
    for position in range(CONCRETES):
        number, build = position % METAS, builds[position // METAS]
        name = f"{build}-engine-{number}"
        lines += [
            f"- !!merge <<: *engine{number}",
            f'  name: "{name}"',
            f'  uri: "quay.io/go-skynet/local-ai-backends:latest-{name}"',
            "  mirrors:",
            f"    - localai/localai-backends:latest-{name}",
        ]
    return "\n".join(lines).encode() + b"\n"
