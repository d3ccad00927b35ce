from realign_cli.safe_path import shun_working_directory

shun_working_directory(by_name=True)

from realign_cli.app import app  # noqa: E402  # by now it is known where from

app(prog_name="realign")
