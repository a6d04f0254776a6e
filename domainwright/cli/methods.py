"""`dw methods`: the ways to tune, and the prompting strategies."""

import json
from typing import Annotated

import typer


def methods(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List every strategy with one line each."""
    from domainwright.methods import METHODS
    from domainwright.prompting import PROMPTINGS

    listed = [
        *(
            {"name": n, "kind": "prompting", "summary": PROMPTINGS.get(n).summary}
            for n in PROMPTINGS.names()
        ),
        *(
            {
                "name": n,
                "kind": "method",
                "summary": METHODS.get(n).summary,
                "parameters": METHODS.get(n).parameter_formula,
                "merges": bool(METHODS.get(n).merge_rtol),
                "peft": METHODS.get(n).peft_type,
                "learning_rate": METHODS.get(n).learning_rate,
            }
            for n in METHODS.names()
        ),
    ]
    if as_json:
        print(json.dumps(listed))
        return
    for entry in listed:
        print(f"{entry['name']:<16} {entry['kind']:<10} {entry['summary']}")
        if "parameters" in entry:
            print(f"{'':<27} parameters: {entry['parameters']}")
            forms = ["merged"] if entry["merges"] else []
            forms += [f"peft ({entry['peft']})"] if entry["peft"] else []
            print(f"{'':<27} exports: {', '.join(forms) or 'none'}")
    print("\nAny other type of PEFT is a method under its own name, as peft:vera or peft:loha.")
    print("A method and a prompting strategy go together as lora+rag.")
