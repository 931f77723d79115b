class BatchRunner:
    def __init__(self, s):
        pass

    async def start(self):
        pass

    async def stop(self):
        pass
