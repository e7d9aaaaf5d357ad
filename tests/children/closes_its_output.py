"""Says a word on each output and closes stdout; says on stderr when it was connected to."""

import os

from _listening import listen

server = listen()
print("goodbye", flush=True)
os.close(1)
os.write(2, b"still here\n")
while True:
    connection, _ = server.accept()
    os.write(2, b"connected\n")
    connection.close()
