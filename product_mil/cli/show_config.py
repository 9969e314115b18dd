"""Show every field of a configuration with its value and what it means.

    product-mil show-config --config=joint:laptop --config.seed=1
    product-mil show-config --schema      # the JSON schema of config.json

A star marks what differs from the default.
"""

import json

from product_mil.cli.console import command
from product_mil.cli.parser import CommandParser
from product_mil.config import Config, flat, load_config, override, problems, refuse
from product_mil.config.leaves import leaves
from product_mil.config.overrides import as_text
from product_mil.config.table import page, schema
from product_mil.text import table


@command(prints_result=True)
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, print."""
    parser = CommandParser("show-config", __doc__)
    parser.add_argument("--config", help="configuration (default: the default of every field)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print it as config.json holds it")
    how.add_argument("--schema", action="store_true", help="print the JSON schema of all fields")
    how.add_argument("--markdown", action="store_true", help="print their documentation")
    args, others = parser.parse_known_args(argv)
    for other in others:
        if not other.startswith("--config.") or "=" not in other:
            parser.error(f"unrecognized arguments: {other}")
    if args.schema:
        print(json.dumps(schema(), indent=1))
    elif args.markdown:
        print(page(), end="")
    else:
        config = load_config(args.config) if args.config else Config()
        pairs = [other.removeprefix("--config.").partition("=") for other in others]
        config, errors = override(config, [(name, value) for name, _, value in pairs])
        refuse(errors + problems(config))
        if args.json:
            print(json.dumps(config.to_dict(), indent=1))
        else:
            print("\n".join(_lines(config)))


def _lines(config: Config) -> list[str]:
    defaults = flat(Config())
    rows = [
        ("*" if value != defaults[name] else "", name, as_text(value), leaves()[name].about)
        for name, value in flat(config).items()
    ]
    return table(rows, ("<1", "<", "<", "<"))


if __name__ == "__main__":
    main()
