"""The faces of the front process: HTTP and websockets. Only this package imports aiohttp.

Light: nothing here computes with pictures or models.
"""
