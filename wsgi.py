"""The WSGI entry point of the Procfile: `granian --interface wsgi wsgi:app`."""

from broker.app import create_app

app = create_app()
