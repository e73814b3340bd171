"""Run `python -m service.client`."""

from service.client.command import main

if __name__ == "__main__":
    main()
