"""What is known of models before they are asked: the providers, hosted models' prices, local files' headers.

Nothing is imported here, so that `import router` loads none of the tables; import the module you need.
"""
