from realign_cli.app import app

app(prog_name="realign")
