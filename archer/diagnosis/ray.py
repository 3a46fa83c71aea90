"""The check ``ray``: starts or joins it, and compares what it has with what the run places."""

from __future__ import annotations

from archer.config.keys import TrainConfig
from archer.diagnosis.finding import Diagnosis, Line, tried
from archer.runtime import machine


def check_ray(config: TrainConfig) -> Diagnosis:
    """Start Ray, or join it, and compare what it has with what the run places."""
    cluster = config.cluster
    import ray

    from archer.runtime.cluster import start_ray

    start = tried(lambda: start_ray(cluster), "")
    if start.status == "fail":
        return Diagnosis((start,))
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        free = ray.available_resources()
    finally:
        ray.shutdown()
    how = f"joined at {cluster.address}" if cluster.address else "starts here"
    has = ", ".join(
        f"{sum(node.get(kind, 0) for node in nodes):g} {kind}s" for kind in ("CPU", "GPU")
    )
    described = f"Ray {ray.__version__} {how}: {len(nodes)} nodes, {has}"
    lines = [Line("ok", described)]
    if len(nodes) < cluster.num_nodes:
        mend = "A run waits for the others for cluster.start_timeout_s; look at `ray status`."
        lines = [Line("warning", f"{described}; cluster.num_nodes={cluster.num_nodes}", mend)]
    left = unplaced(nodes, _bundles(config))
    if left:
        mend = "Add nodes, or use fewer workers: cluster.policy_workers, cluster.rollout_replicas."
        lines.append(Line("fail", f"no room for {_counted(left)}", mend))
    elif len(nodes) and free.get("GPU", 0) < sum(node.get("GPU", 0) for node in nodes):
        mend = "Another run uses it; this one would wait for cluster.start_timeout_s."
        lines.append(Line("warning", f"only {free.get('GPU', 0):g} GPUs are free", mend))
    return Diagnosis(tuple(lines))


def _bundles(config: TrainConfig) -> list[dict[str, float]]:
    """What has to fit on one node each."""
    from archer.runtime.cluster import reserved_bundles

    cluster = config.cluster
    groups = reserved_bundles(cluster)
    if not groups:
        return [{"CPU": cluster.cpus_per_worker}] * machine.num_workers(config)
    return [bundle for group in groups for bundle in group]


def unplaced(
    nodes: list[dict[str, float]], bundles: list[dict[str, float]]
) -> list[dict[str, float]]:
    """Bundles for which no node has room; the largest are placed first, each where it fits."""
    rooms = [dict(node) for node in nodes]
    left = []
    for bundle in sorted(bundles, key=lambda b: b.get("GPU", 0), reverse=True):
        fitting = [r for r in rooms if all(r.get(kind, 0) >= b for kind, b in bundle.items())]
        if not fitting:
            left.append(bundle)
            continue
        for kind, amount in bundle.items():
            fitting[0][kind] = round(fitting[0][kind] - amount, 6)
    return left


def _counted(bundles: list[dict[str, float]]) -> str:
    texts = [" + ".join(f"{amount:g} {kind}" for kind, amount in b.items()) for b in bundles]
    return ", ".join(f"{texts.count(text)} x ({text})" for text in dict.fromkeys(texts))
