"""The shared words of the house: messages, configs, errors, devices, console, statistics. No ML here."""
