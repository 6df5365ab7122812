"""."""


def written(e: object) -> str:
    return ""
