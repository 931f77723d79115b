class K:
    def any(self):
        return False


class Store:
    keys = K()

    @classmethod
    def open(cls, url):
        return cls()

    def secret(self):
        return b"s" * 32
