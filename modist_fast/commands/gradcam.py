"""Show where backbones look: modist gradcam --backbone RUN --versus RUN --store STORE --labels LIST --out OUT"""

from modist_fast.commands.cli import parse_options, run_cli, starting
from modist_fast.gradcam.config import GradCamConfig


def main() -> None:
    config = parse_options(GradCamConfig, description=__doc__)
    starting()  # what comes now imports torch
    from modist_fast.gradcam.run import run_gradcam
    from modist_fast.host.distributed import join_world
    from modist_fast.run.alone import alone_in

    with join_world(config.device, config.collective_timeout) as world, alone_in(config.out, world):
        result = run_gradcam(config, world)
    area = result["chance"]
    print(f"\nmotion agreement: share of the Grad-CAM inside the moving region, which is {_percent(area)} of the area")
    print("in brackets: 95 % intervals over test clips, or over whole groups where the videos have groups")
    width = max(len("difference"), *(len(part["name"]) for part in result["backbones"]))
    for part in result["backbones"]:
        print(
            f"{part['name']:{width}}  {_percent(part['agreement'])}; in the regions of other clips "
            f"{_percent(part['of_other_clips'])}; linear top-1 {100 * part['top1']:.1f} %"
        )
    if "difference" in result:
        print(f"{'difference':{width}}  {_percent(result['difference'])}, clip by clip")
    for name in ("gradcam.png", "gradcam.mp4", "gradcam.json"):
        print(config.out / name)


def _percent(figure: dict) -> str:
    if figure["mean"] is None:
        return "nowhere defined"
    low, high = figure["interval"]
    return f"{100 * figure['mean']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    run_cli(main)
